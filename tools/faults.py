"""Random faults over the commands that write: afterwards the same command gives what an undisturbed run gives.

    python tools/faults.py --faults 200 --seed 7 [--verbs "data pack,pretrain"] [--kinds "kill -9"] [--only 31]

Each fault is one command on tiny inputs that is killed, stopped, starved of disk, robbed of a file and so on at a
random moment (``fault_kinds.py`` has them all). Then the same command is given again, once, undisturbed; it must end
with exit code 0, with the digest that `semaug data verify` gives of an undisturbed run, and with the same files, byte
for byte but for times and memory (``fault_portraits.py``): nothing lacks, nothing is left over. The disturbed command
must have ended with a documented exit code, with one line where it failed, and without processes that outlive it.

Prints a table and the command that repeats each failure; exit code 1 when there is one. A case is drawn from the seed
and its number alone; moments are counted in processor time, and hit what the machine does then. Disks and frozen
folders need root; what cannot be done here is counted as skipped, with the reason.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1")

from fault_kinds import FAULTS, Failed, Profile, Trial, frozen, mount, size_of
from fault_portraits import differences, portrait
from fault_runs import BLINK, Starter
from fault_verbs import VERBS, copy_own, filled, make_inputs

TWO_WORKERS = ("--workers", "2")


@dataclass(frozen=True, slots=True)
class Case:
    """One fault: which command, with what it is disturbed, and where its numbers come from."""

    number: int
    seed: int
    verb: str
    kind: str
    extra: tuple[str, ...]

    @property
    def draw(self) -> random.Random:
        """The case's own random numbers."""
        return random.Random(f"{self.seed}/{self.number}/moments")


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a case: ``failed`` is empty where all was well; ``struck`` says whether the command was at work."""

    case: Case
    struck: bool
    failed: str
    seconds: float


def drawn(number: int, seed: int, verbs: list[str], kinds: list[str]) -> Case:
    """The case of a number; kinds and verbs are drawn until they go together."""
    draw = random.Random(f"{seed}/{number}")
    while True:
        verb = draw.choices(verbs, [VERBS[v].often for v in verbs])[0]
        kind = draw.choices(kinds, [FAULTS[k][1] for k in kinds])[0]
        shared = draw.random() < VERBS[verb].workers or (kind == "kill -9 of a worker" and draw.random() < 0.5)
        if kind == "vanishing input" and not VERBS[verb].vanishing:
            continue
        if kind == "torn last shard" and not VERBS[verb].shards:
            continue
        if kind == "kill -9 of a worker" and not (shared and draw.random() < VERBS[verb].workers * 4):
            continue
        return Case(number, seed, verb, kind, TWO_WORKERS if shared and VERBS[verb].workers else ())


@dataclass
class Bench:
    """The place where cases are run: inputs, undisturbed runs, and the processes that start commands."""

    folder: Path
    verbs: list[str]
    starter: Starter = field(init=False)
    places: dict[str, Path] = field(init=False)
    profiles: dict[tuple[str, tuple[str, ...]], Profile] = field(default_factory=dict)
    digests: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.starter = Starter(self._modules(), self.folder / "said")
        self.places = make_inputs(
            [n for verb in self.verbs for n in VERBS[verb].needs], self.folder / "in", self.starter
        )

    def _modules(self) -> list[str]:
        return list(dict.fromkeys(module for verb in self.verbs for module in VERBS[verb].modules))

    def close(self) -> None:
        """End the process that forks."""
        self.starter.close()

    def run(self, case: Case) -> Told:
        """Disturb, run again, compare."""
        began, struck, failed = time.monotonic(), False, ""
        profile = self._profile(case.verb, case.extra)
        trial = self._trial(case, profile)
        try:
            struck = FAULTS[case.kind][0](trial)
            self._settle(case, trial)
        except Failed as error:
            failed = str(error)
            shutil.copytree(trial.out, self.folder / f"failed-{case.number}", dirs_exist_ok=True)
        return Told(case, struck, failed, time.monotonic() - began)

    def _trial(self, case: Case, profile: Profile) -> Trial:
        places = self._fresh(case.verb)
        clock = self.folder / "clock"
        return Trial(VERBS[case.verb], case.extra, places["OUT"], places, profile, case.draw, self.starter, clock)

    def _fresh(self, verb: str) -> dict[str, Path]:
        """An empty folder, always the same, with copies of what the command writes to."""
        out = self.folder / "case"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return copy_own(VERBS[verb], self.places, out)

    def _settle(self, case: Case, trial: Trial) -> None:
        """The same command again, and what is there then."""
        trial.ended(trial.start(), 0)
        if lines := differences(trial.profile.portrait, portrait(trial.out)):
            raise Failed(f"{len(lines)} differences to the undisturbed run: {'; '.join(lines[:4])}")
        if (found := self._verified(case.verb, trial.out)) != self.digests[case.verb]:
            raise Failed(f"digests {found} where {self.digests[case.verb]} are expected")

    def _profile(self, verb: str, extra: tuple[str, ...]) -> Profile:
        if (verb, extra) not in self.profiles:
            self._measure(verb, extra)  # a first time imports, and compiles, what later ones find done
            self.profiles[verb, extra] = self._measure(verb, extra)
        return self.profiles[verb, extra]

    def _measure(self, verb: str, extra: tuple[str, ...]) -> Profile:
        places = self._fresh(verb)
        before = len(os.listdir(places["OUT"]))
        running, appeared, whole = self.starter.start(*filled(VERBS[verb].words, places), *extra), 0.0, 0.0
        while running.at_work:
            whole = max(whole, running.seconds())
            if not appeared and len(os.listdir(places["OUT"])) > before:
                appeared = whole
            time.sleep(BLINK)
        done = running.end()
        if done.code:
            raise RuntimeError(f"undisturbed, {verb} ends with {done.code}: {done.err}")
        self.digests[verb] = self._verified(verb, places["OUT"])
        out = places["OUT"]
        return Profile(appeared, whole, portrait(out), tuple(done.lines), size_of(out))

    def _verified(self, verb: str, out: Path) -> list[str]:
        digests = []
        for name in VERBS[verb].made:
            done = self.starter.run("data", "verify", out / name, "--json")
            if done.code or not json.loads(done.out)["ok"]:
                raise Failed(f"{name} is not sound: {done.out} {done.err}")
            digests.append(json.loads(done.out)["digest"])
        return digests


def unavailable() -> dict[str, str]:
    """Kinds that cannot be done here, with the reason."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            mount("-t", "tmpfs", "-o", "size=64k", "none", name)
            subprocess.run(["umount", "-l", name], check=True)
        except OSError as error:
            found["disk full"] = str(error)
        with frozen(place):
            try:
                (place / "file").touch()
                found["read-only output"] = "chattr +i has no effect here"
            except OSError:
                pass
    return found


def table(told: list[Told]) -> str:
    """Commands by kinds: faults that struck the command at work, of all."""
    kinds = [kind for kind in FAULTS if any(t.case.kind == kind for t in told)]
    verbs = [verb for verb in VERBS if any(t.case.verb == verb for t in told)]
    rows = [["", *kinds, "all"]]
    for verb in (*verbs, "all"):
        own = [t for t in told if verb in ("all", t.case.verb)]
        rows.append([verb, *(_cell([t for t in own if t.case.kind == kind]) for kind in kinds), _cell(own)])
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def _cell(told: list[Told]) -> str:
    failed = sum(bool(t.failed) for t in told)
    text = f"{sum(t.struck for t in told)}/{len(told)}" if told else ""
    return f"{text}, {failed} failed" if failed else text


def main() -> int:
    """Run the faults; 1 where one of them broke something."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=options.folder))
    lacking, told, skipped = unavailable(), [], collections.Counter[str]()
    numbers = [options.only] if options.only is not None else range(options.faults)
    cases = [drawn(number, options.seed, options.verbs, options.kinds) for number in numbers]
    stop = time.monotonic() + 60 * options.minutes
    bench = Bench(folder, sorted({case.verb for case in cases}, key=list(VERBS).index))
    try:
        for case in cases:
            if time.monotonic() > stop:
                break
            if case.kind in lacking:
                skipped[f"{case.kind}: {lacking[case.kind]}"] += 1
                continue
            told.append(bench.run(case))
            _say(told[-1])
    finally:
        bench.close()
    print(f"\n{len(told)} faults of seed {options.seed}; each cell: those that struck a command at work / all\n")
    print(table(told))
    for reason, count in skipped.items():
        print(f"skipped {count}: {reason}")
    return _end(told, options, folder)


def _say(told: Told) -> None:
    case = told.case
    workers = " with workers" if case.extra else ""
    ending = f"FAILED: {told.failed}" if told.failed else ("well" if told.struck else "well, came too late")
    print(f"{case.number:4d}  {case.verb}{workers}, {case.kind}: {ending} ({told.seconds:.1f} s)", flush=True)


def _end(told: list[Told], options: argparse.Namespace, folder: Path) -> int:
    failed = [t for t in told if t.failed]
    for t in failed:
        words = "".join(f' --{name} "{",".join(getattr(options, name))}"' for name in ("verbs", "kinds"))
        print(f"\n{t.case.verb}, {t.case.kind}: {t.failed}")
        print(f"  python tools/faults.py --seed {options.seed} --only {t.case.number}{words}")
    if failed:
        print(f"\nwhat they left is in {folder}")
    else:
        shutil.rmtree(folder)
        print(f"all {len(told)} well")
    return bool(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faults", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="(drawn)")
    parser.add_argument("--only", type=int, help="one case, by its number")
    parser.add_argument("--verbs", type=_names(VERBS), default=list(VERBS), help="commands, with commas between")
    parser.add_argument("--kinds", type=_names(FAULTS), default=list(FAULTS), help="faults, with commas between")
    parser.add_argument("--minutes", type=float, default=600.0, help="no new case after that")
    parser.add_argument("--folder", type=Path, help="where to work (the folder for temporary files)")
    return parser.parse_args()


def _names(known: dict[str, object]):  # type: ignore[no-untyped-def, type-arg]
    def split(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return split


if __name__ == "__main__":
    sys.exit(main())
