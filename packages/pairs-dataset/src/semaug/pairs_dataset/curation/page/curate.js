// One page, one pair at a time. The server keeps a verdict before it answers, and the next pair shows with the answer.

const find = (id) => document.getElementById(id);
const RETRY_MILLISECONDS = 2000;
const RENEW_MILLISECONDS = 240_000;
const VERDICTS = { accept: "Accepted", reject: "Rejected", skip: "Skipped" };

const tab = remembered(sessionStorage, "tab", () => crypto.randomUUID());
const state = { curator: "", pair: null, tags: new Set(), busy: true, shown: { a: false, b: false }, about: null,
  zoom: 1, moved: { a: [0, 0], b: [0, 0] } };

function remembered(storage, name, make) {
  const value = storage.getItem(`semaug-${name}`) || make();
  storage.setItem(`semaug-${name}`, value);
  return value;
}

// Talking to the server

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(name, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(`api/${name}`, options);
  const plain = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Refused(answer.status, plain.error);
  return plain;
}

// Sends until the server answers: a request keeps its id, so that sending it again counts once.
async function askUntilAnswered(name, body) {
  for (;;) {
    try {
      const answer = await ask(name, body);
      complain("");
      return answer;
    } catch (error) {
      if (error instanceof Refused && error.status !== 503) throw error;
      const why = error instanceof Refused ? error.message : "The server does not answer.";
      complain(`${why} ${name === "verdict" ? "Your last verdict is held here and sent again" : "Trying again"} every two seconds.`);
      await new Promise((go) => setTimeout(go, RETRY_MILLISECONDS));
    }
  }
}

const asking = (more = {}) => ({ curator: state.curator, tab, choice: choice(), ...more });

// One thing at a time: keys and clicks that come meanwhile are dropped, so that none falls on a pair not yet seen.
async function step(act) {
  if (state.busy) return;
  setBusy(true);
  try {
    await act();
  } catch (error) {
    if (error instanceof Refused && error.status === 403) {
      complain("This address is not valid any more. Open the one that semaug pairs curate printed last.");
      return;
    }
    complain(error.message);
    await show(await askUntilAnswered("next", asking()));
    complain(error.message);
  } finally {
    setBusy(false);
  }
}

function judge(verdict) {
  if (!state.pair) return;
  if (verdict === "accept" && !(state.shown.a && state.shown.b)) {
    say("Wait until both images are shown, or skip the pair.");
    return;
  }
  step(async () => {
    const { pair_id, class_name } = state.pair;
    const body = asking({ request: crypto.randomUUID(), pair_id, verdict, tags: [...state.tags] });
    const answer = await askUntilAnswered("verdict", body);
    await show(answer);
    say(`${VERDICTS[verdict]} a pair of ${class_name}. ${classText(class_name, answer.progress)} ${pairText()}`);
  });
}

function undo() {
  step(async () => {
    const answer = await askUntilAnswered("undo", asking({ request: crypto.randomUUID() }));
    if (!answer.pair) {
      tell(answer.progress);
      say("There is nothing to undo.");
      return;
    }
    await show({ ...answer, upcoming: state.pair });
    say(`Took back: ${VERDICTS[answer.pair.verdict].toLowerCase()}. ${pairText()}`);
  });
}

function stop() {
  step(async () => {
    const { progress } = await askUntilAnswered("release", asking());
    find("desk").hidden = find("more").hidden = true;
    find("sign-in").hidden = false;
    state.curator = "";
    state.pair = null;
    sessionStorage.removeItem("semaug-started");
    tell(progress);
    say("Everything is kept. You can close this page, or go on.");
    find("name").focus();
  });
}

// Showing

async function show({ pair, upcoming, progress }) {
  state.pair = pair;
  state.tags = new Set(pair?.tags ?? []);
  state.zoom = 1;
  state.moved = { a: [0, 0], b: [0, 0] };
  state.shown = { a: false, b: false };
  find("side-a").parentElement.hidden = !pair;
  find("nothing").hidden = Boolean(pair);
  tell(progress);
  drawTags();
  drawZoom();
  find("class-name").textContent = pair ? pair.class_name : "No pair left here";
  find("scores").textContent = pair ? scoreText(pair) : "";
  if (!pair) {
    find("nothing").textContent = leftText(progress);
    return;
  }
  await Promise.all(["a", "b"].map((side) => showSide(side, pair.images[side])));
  if (upcoming) for (const side of ["a", "b"]) preload(upcoming.images[side]);
}

const address = (image, whole) => `image/${image.number}${whole ? "?whole=1" : ""}`;

function preload(image) {
  if (image.number === null) return;
  const ahead = new Image();
  ahead.src = address(image);
  ahead.decode().catch(() => {});
}

async function showSide(side, image) {
  const figure = find(`side-${side}`);
  const [layer, picture, caption] = [".layer", "img", "figcaption"].map((name) => figure.querySelector(name));
  const letter = side.toUpperCase();
  layer.classList.add("loading");
  caption.classList.remove("bad");
  caption.textContent = `${letter}: ${image.key}`;
  drawBoxes(figure.querySelector("svg"), image.boxes);
  try {
    if (image.number === null) throw new Error("the images have none of this key");
    picture.src = address(image);
    await picture.decode();
  } catch (error) {
    picture.alt = `Image ${letter} cannot be shown`;
    caption.textContent = `${letter}: ${image.key} cannot be shown (${await whyNot(image, error)})`;
    caption.classList.add("bad");
    return;
  }
  layer.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  const boxes = image.boxes.length === 1 ? "1 box" : `${image.boxes.length} boxes`;
  picture.alt = `Image ${letter} of ${state.pair.class_name}, ${boxes}`;
  layer.classList.remove("loading");
  state.shown[side] = true;
}

async function whyNot(image, error) {
  if (image.number === null) return error.message;
  try {
    const answer = await fetch(address(image));
    return answer.ok ? "it does not decode" : (await answer.json()).error;
  } catch {
    return "the server does not answer";
  }
}

function drawBoxes(svg, boxes) {
  svg.replaceChildren(...boxes.flatMap(([left, top, right, bottom]) => ["under", "over"].map((name) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("class", name);
    const values = { x: left, y: top, width: right - left, height: bottom - top };
    for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
    return rect;
  })));
}

function tell(progress) {
  state.progress = progress;
  const { total, classes } = progress;
  const hours = progress.seconds_left === null ? "" : ` · about ${duration(progress.seconds_left)} left at your pace`;
  find("summary").textContent = `${total.accepted} of ${total.goal} accepted, ${total.judged} judged${hours}`;
  const wanted = total.judged + total.verdicts_left;
  find("overall").max = Math.max(1, wanted);
  find("overall").value = total.judged;
  find("skipped-count").textContent = progress.skipped;
  find("class-progress").textContent = state.pair ? classText(state.pair.class_name, progress) : "";
  const columns = ["accepted", "judged", "waiting", "disputed", "pairs"];
  find("classes").replaceChildren(...classes.map((row) => tableRow(row.name, columns.map((name) => row[name]))));
  fillClasses(classes);
}

function tableRow(head, cells) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = head;
  row.append(name, ...cells.map((cell) => Object.assign(document.createElement("td"), { textContent: cell })));
  return row;
}

function fillClasses(classes) {
  const list = find("class-choice");
  if (list.options.length === classes.length + 1) return;
  const chosen = list.value;
  list.replaceChildren(new Option("all", ""), ...classes.map(({ name }) => new Option(name, name)));
  list.value = chosen;
}

function classText(name, { classes, total }) {
  const row = classes.find((found) => found.name === name);
  if (!row) return "";
  const goal = state.about?.per_class ? ` of ${state.about.per_class}` : "";
  const short = total.short.includes(name) ? " There are too few proposals to reach that." : "";
  return `${row.accepted}${goal} accepted, ${row.judged} of ${row.pairs} judged.${short}`;
}

function pairText() {
  if (!state.pair) return find("nothing").textContent;
  const bad = ["a", "b"].some((side) => !state.shown[side]) ? " An image cannot be shown." : "";
  return `Now a pair of ${state.pair.class_name}.${bad}`;
}

function scoreText({ scores, provenance }) {
  const parts = Object.entries(scores).map(([name, value]) => `${name} ${Number(value.toPrecision(3))}`);
  return [...parts, provenance].filter(Boolean).join(" · ");
}

function leftText({ total, skipped }) {
  if (Object.values(choice()).some(Boolean)) return "No pair fits this choice. Choose others under “Which pairs”.";
  const waiting = total.waiting ? ` ${total.waiting} pairs wait for a second curator.` : "";
  const later = skipped ? ` You skipped ${skipped}; find them under “Which pairs”.` : "";
  const others = total.verdicts_left && !waiting ? " Others may hold the rest on their screens." : "";
  return `There is nothing left to judge for you.${waiting}${later}${others}`;
}

function duration(seconds) {
  if (seconds < 90) return "a minute";
  if (seconds < 5400) return `${Math.round(seconds / 60)} minutes`;
  return `${(seconds / 3600).toFixed(seconds < 36_000 ? 1 : 0)} hours`;
}

function say(text) { find("status").textContent = text; }

function complain(text) { if (find("problem").textContent !== text) find("problem").textContent = text; }

function setBusy(busy) {
  state.busy = busy;
  for (const name of ["accept", "reject", "skip", "undo"]) {
    const useless = busy || (!state.pair && name !== "undo");
    find(name).setAttribute("aria-disabled", String(useless));
  }
}

// Tags, boxes, zoom

function toggleTag(tag) {
  if (!state.pair || state.busy) return;
  if (!state.tags.delete(tag)) state.tags.add(tag);
  drawTags();
  say(`${tag} ${state.tags.has(tag) ? "differs" : "not marked"}.`);
}

function drawTags() {
  for (const button of find("tags").children) {
    button.setAttribute("aria-pressed", String(state.tags.has(button.dataset.tag)));
  }
}

function makeTags(tags) {
  find("tags").replaceChildren(...tags.map((tag, place) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = place + 1;
    Object.assign(button, { type: "button", onclick: () => toggleTag(tag) });
    button.dataset.tag = tag;
    button.setAttribute("aria-keyshortcuts", place + 1);
    button.append(`${tag[0].toUpperCase()}${tag.slice(1)} `, key);
    return button;
  }));
  drawTags();
}

function toggleBoxes() {
  const hidden = document.body.classList.toggle("no-boxes");
  find("boxes").setAttribute("aria-pressed", String(!hidden));
  say(hidden ? "Boxes are hidden." : "Boxes are shown.");
}

function zoomTo(zoom) {
  state.zoom = Math.min(8, Math.max(1, zoom));
  if (state.zoom === 1) state.moved = { a: [0, 0], b: [0, 0] };
  drawZoom();
  say(state.zoom === 1 ? "Not zoomed." : `Zoomed ${Number(state.zoom.toFixed(1))} times.`);
}

function move(sides, right, down) {
  const limit = (state.zoom - 1) / 2;
  for (const side of sides) {
    const [x, y] = state.moved[side];
    state.moved[side] = [x + right, y + down].map((share) => Math.min(limit, Math.max(-limit, share)));
  }
  drawZoom();
}

function drawZoom() {
  const zoomed = state.zoom > 1;
  document.body.classList.toggle("zoomed", zoomed);
  find("zoom").setAttribute("aria-pressed", String(zoomed));
  for (const side of ["a", "b"]) {
    const layer = find(`side-${side}`).querySelector(".layer");
    const [x, y] = state.moved[side].map((share) => `${share * 100}%`);
    layer.style.transform = zoomed ? `translate(${x}, ${y}) scale(${state.zoom})` : "";
    if (zoomed && state.shown[side]) sharpen(side);
  }
}

// A zoomed image is shown in its own resolution, once that is there.
async function sharpen(side) {
  const image = state.pair.images[side];
  const picture = find(`side-${side}`).querySelector("img");
  const source = address(image, true);
  if (picture.getAttribute("src") === source) return;
  const whole = new Image();
  whole.src = source;
  try { await whole.decode(); } catch { return; }
  if (state.pair?.images[side] === image && state.zoom > 1) picture.src = source;
}

function makeDraggable(side) {
  const stage = find(`side-${side}`).querySelector(".stage");
  const layer = stage.querySelector(".layer");
  let last = null;
  stage.addEventListener("pointerdown", (event) => {
    if (state.zoom === 1 || event.button !== 0) return;
    last = [event.clientX, event.clientY];
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    if (!last) return;
    move([side], (event.clientX - last[0]) / layer.offsetWidth, (event.clientY - last[1]) / layer.offsetHeight);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, () => { last = null; stage.classList.remove("dragging"); });
  }
  stage.addEventListener("dblclick", () => zoomTo(state.zoom > 1 ? 1 : 3));
}

// Choosing

function choice() {
  const number = (id) => (find("score-choice").value && find(id).value !== "" ? Number(find(id).value) : null);
  return { class_name: find("class-choice").value, score: find("score-choice").value, low: number("low"),
    high: number("high"), skipped: find("skipped").checked };
}

function fillScores(scores) {
  const names = Object.keys(scores);
  find("score-choice").replaceChildren(new Option("any", ""), ...names.map((name) => new Option(name, name)));
  for (const id of ["score-choice", "low", "high"]) find(id).parentElement.hidden = names.length === 0;
}

function drawBounds() {
  const ends = state.about.scores[find("score-choice").value];
  for (const [place, id] of ["low", "high"].entries()) {
    find(id).disabled = !ends;
    find(id).placeholder = ends ? Number(ends[place].toPrecision(3)) : "";
  }
}

async function choose() {
  drawBounds();
  await step(async () => {
    await show(await askUntilAnswered("next", asking()));
    say(pairText());
  });
}

async function drawAgreement() {
  const { agreement } = await ask("about");
  const rows = agreement.map((row) => tableRow(row.curators.join(" and "), [row.pairs,
    row.share === null ? "–" : `${(100 * row.share).toFixed(1)} %`, row.kappa === null ? row.reason : row.kappa.toFixed(3)]));
  find("agreement").replaceChildren(...(rows.length ? rows : [tableRow("No pair was judged by two curators yet", ["", "", ""])]));
}

// Keys and buttons

const KEYS = {
  a: () => judge("accept"), r: () => judge("reject"), s: () => judge("skip"), u: undo,
  z: () => zoomTo(state.zoom > 1 ? 1 : 3), b: toggleBoxes,
  "+": () => zoomTo(state.zoom * 1.5), "=": () => zoomTo(state.zoom * 1.5), "-": () => zoomTo(state.zoom / 1.5),
};
const ARROWS = { ArrowLeft: [0.15, 0], ArrowRight: [-0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] };

function onKey(event) {
  if (!state.curator || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  if (event.key in ARROWS && state.zoom > 1) {
    event.preventDefault();
    move(["a", "b"], ...ARROWS[event.key]);
    return;
  }
  if (!find("single-keys").checked || event.repeat) return; // a key held down judges one pair, not thirty
  const tag = state.about?.tags[Number(event.key) - 1];
  const act = tag ? () => toggleTag(tag) : KEYS[event.key.toLowerCase()];
  if (act) {
    event.preventDefault();
    act();
  }
}

function whenNotDisabled(id, act) {
  find(id).addEventListener("click", () => { if (find(id).getAttribute("aria-disabled") !== "true") act(); });
}

function listen() {
  for (const verdict of Object.keys(VERDICTS)) whenNotDisabled(verdict, () => judge(verdict));
  whenNotDisabled("undo", undo);
  find("zoom").addEventListener("click", KEYS.z);
  find("boxes").addEventListener("click", toggleBoxes);
  find("stop").addEventListener("click", stop);
  find("choice").addEventListener("change", choose);
  find("choice").addEventListener("submit", (event) => event.preventDefault());
  find("choice").addEventListener("reset", () => setTimeout(choose));
  find("agreement-panel").addEventListener("toggle", drawAgreement);
  find("single-keys").checked = localStorage.getItem("semaug-single-keys") !== "off";
  find("single-keys").addEventListener("change", (event) => {
    localStorage.setItem("semaug-single-keys", event.target.checked ? "on" : "off");
  });
  document.addEventListener("keydown", onKey);
  for (const side of ["a", "b"]) makeDraggable(side);
  setInterval(renew, RENEW_MILLISECONDS);
}

// Asking again keeps the pairs on this screen from going to somebody else.
function renew() {
  if (state.pair && !state.busy && !document.hidden) ask("next", asking()).catch(() => {});
}

async function start(curator) {
  state.curator = curator;
  localStorage.setItem("semaug-curator", curator);
  sessionStorage.setItem("semaug-started", "yes");
  find("who").textContent = `as ${curator}`;
  find("sign-in").hidden = true;
  find("desk").hidden = find("more").hidden = false;
  state.busy = false;
  await step(async () => {
    state.about = await askUntilAnswered("about");
    makeTags(state.about.tags);
    fillScores(state.about.scores);
    drawBounds();
    await show(await askUntilAnswered("next", asking()));
    say(pairText());
    find("class-name").focus();
  });
}

listen();
find("start").disabled = false;
find("name").value = localStorage.getItem("semaug-curator") ?? "";
find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("name").value.trim();
  if (name) start(name);
});
if (sessionStorage.getItem("semaug-started") && find("name").value) start(find("name").value);
