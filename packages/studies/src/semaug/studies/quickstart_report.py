"""The report of quickstart: what was compared, what came out, what the guidance is worth, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.store import package_versions
from semaug.studies.comparison import Compared, best_control, compare, verdict_of
from semaug.studies.jobs import TEST_FEATURES
from semaug.studies.quickstart import Guided, QuickstartPlan, QuickstartResult, config_of, pair_options
from semaug.studies.run_page import curves_of, hardware
from semaug.studies.runner import Outcome

if TYPE_CHECKING:
    from PIL import Image

    from semaug.eval.report import Block, Cell, Provenance, Section

LINEAR, KNN, KNN_PROJECTOR = "linear/top1", "knn/backbone/top1", "knn/projector/top1"
CONTROLS = ("standard", "random_box")
SHEET_ITEMS = 6
COMMANDS = (
    "semaug data pack FOLDER --out images.zarr",
    "semaug quality score images.zarr --out quality.zarr",
    "semaug guide extract images.zarr --quality quality.zarr --out guidance.zarr",
    "semaug views show images.zarr --guidance guidance.zarr --out views.png",
    "semaug pretrain simclr images.zarr --pairs guided --guidance guidance.zarr --steps 500 --out run/",
    "semaug eval all run/ --train FOLDER --test TEST_FOLDER",
)


def write_quickstart_report(
    out: Path, plan: QuickstartPlan, guided: Guided, outcomes: Mapping[str, list[Outcome]], *, say: Any
) -> QuickstartResult:
    """Write ``report.html`` and ``results.json`` to ``out``; what failed is said in it."""
    from semaug.eval.report import Highlight, Paragraph, Report, Section, write_report

    failed = tuple(f"{o.name}: {o.error}" for rows in outcomes.values() for o in rows if o.error)
    scores = {name: compare(rows, (LINEAR, KNN, KNN_PROJECTOR)) for name, rows in outcomes.items()}
    finished = {name: score for name, score in scores.items() if score.n}
    sections = [_result_section(finished, out, plan)] if finished else []
    sections += [_views_section(guided, plan), _guidance_section(guided, plan), *_map_section(out, finished, plan)]
    sections.append(_cost_section(guided, plan))
    if failed:
        sections.insert(0, Section("What failed", tuple(Paragraph(line, "warning") for line in failed)))
    verdict = verdict_of(finished, "guided", CONTROLS, LINEAR)
    highlights = [Highlight(f"{n}, linear", f"{s.mean(LINEAR):.1%}", f"{s.n} seeds") for n, s in finished.items()]
    title, subtitle = "Semantic guidance on generated scenes", "semaug quickstart"
    report = Report(title, verdict, tuple(sections), _provenance(guided, plan), subtitle, tuple(highlights))
    page = write_report(out / "report.html", report)
    say(verdict.replace("**", ""))
    linear, knn = ({name: score.mean(metric) for name, score in finished.items()} for metric in (LINEAR, KNN))
    return QuickstartResult(page, linear, knn, failed)


def _result_section(scores: Mapping[str, Compared], out: Path, plan: QuickstartPlan) -> Section:
    from semaug.eval.report import Column, Section, Table

    accuracies = (Column(name, unit="%", scale=100, best="max") for name in ("linear", "kNN", "kNN, projector"))
    columns = (Column("variant"), *accuracies, Column("linear, against standard", unit="pt", scale=100, signed=True))
    rows = []
    for name, score in scores.items():
        against = score.against(scores["standard"], LINEAR) if name != "standard" and "standard" in scores else None
        rows.append((name, *(score.summary(m) for m in (LINEAR, KNN, KNN_PROJECTOR)), against))
    note = (
        f"Mean and standard deviation over {len(plan.seeds)} seeds; seeds are paired, so variants share first weights, "
        "order and colours. Brackets: 95% interval of the paired difference. kNN: k = 20, T = 0.07."
    )
    blocks: list[Block] = [Table("Accuracy on the test scenes", columns, tuple(rows), note)]
    blocks += _difference_figure(scores)
    return Section("Accuracy", (*blocks, *_curves(scores, out, plan)))


def _difference_figure(scores: Mapping[str, Compared]) -> list[Block]:
    from semaug.eval.figures.bars import DifferenceRow, difference_bars
    from semaug.eval.report import Figure

    control = best_control(scores, CONTROLS, LINEAR)
    if control is None or "guided" not in scores:
        return []
    rows = []
    for name, other in (("guided - standard", "standard"), ("guided - random_box", "random_box")):
        if other in scores:
            difference = scores["guided"].against(scores[other], LINEAR)
            rows.append(DifferenceRow(name, difference, scores["guided"].pairs(scores[other], LINEAR)))
    image = difference_bars(rows, "difference in linear accuracy, points")
    caption = "What guidance gains over each control: mean, 95% interval, and the single seeds as dots."
    return [Figure(image, caption, "paired differences of guided against its controls")]


def _curves(scores: Mapping[str, Compared], out: Path, plan: QuickstartPlan) -> list[Block]:
    from semaug.eval.figures.curves import learning_curves
    from semaug.eval.report import Figure

    figures: list[Block] = []
    for column, label in (("knn", "kNN accuracy"), ("loss", "training loss")):
        runs = {name: [out / "runs" / f"{name}-{seed}" for seed in plan.seeds] for name in scores}
        curves = [c for name, paths in runs.items() if (c := curves_of(name, paths, column)) is not None]
        if curves:
            caption = f"The {label} while training: mean over the seeds, and their range."
            figures.append(Figure(learning_curves(curves, label), caption, f"{label} over steps for each variant"))
    return figures


def _views_section(guided: Guided, plan: QuickstartPlan) -> Section:
    from semaug.eval.report import Paragraph, Section, Sheet, SheetRow

    columns, rows = view_columns(guided, plan)
    sheet = Sheet(
        "The same images under each variant. Yellow: the guidance's box, green its mask; red and blue: the crops of "
        "the two views, which stand to the right.",
        columns,
        tuple(SheetRow(label, images) for label, images in rows),
    )
    text = (
        "A positive pair is two views of one image. Standard crops often hold nothing but background; guided crops are "
        "taken around what an oracle found. Flips, colours and blurs of an image are the same in every variant: "
        "only the crops differ."
    )
    return Section("What the encoder sees", (Paragraph(text), sheet))


def view_columns(
    guided: Guided, plan: QuickstartPlan
) -> tuple[tuple[str, ...], list[tuple[str, tuple[Image.Image | None, ...]]]]:
    """Column names, and for some images of each route the drawn image and both views of every variant."""
    from PIL import Image

    from semaug.pairs_dataset import make_pairs
    from semaug.pairs_dataset.overlays import draw_guidance
    from semaug.pairs_dataset.sheets import view_pixels

    columns: list[str] = []
    cells: dict[int, list[Image.Image | None]] = {i: [] for i in _sheet_items(guided)}
    for name in ("standard", "random_box", "guided"):
        table = guided.guidance
        pairs = make_pairs(name, guided.images, size=plan.view_size, guidance=table, **pair_options(name, plan))
        columns += [name] * 3
        for item, row in cells.items():
            view_1, view_2, index = pairs[item]
            pixels = guided.images.read(index)
            crops = pairs.plan(item, *pixels.shape[:2]).crops.tolist()
            row.append(draw_guidance(pixels, table.get(pairs.source.key(index)), crops, side=112))
            row += [
                Image.fromarray(view_pixels(v, pairs)).resize((64, 64), Image.Resampling.BICUBIC)
                for v in (view_1, view_2)
            ]
    return tuple(columns), [(str(_route(guided, item)), tuple(images)) for item, images in cells.items()]


def _sheet_items(guided: Guided) -> list[int]:
    """The first images of every route, so that the sheet shows all three."""
    chosen: list[int] = []
    for scale in ("object", "pixel", "hybrid"):
        found = (i for i in range(len(guided.images)) if _route(guided, i) == scale)
        chosen += [i for _, i in zip(range(SHEET_ITEMS // 3), found, strict=False)]
    return chosen


def _route(guided: Guided, index: int) -> str | None:
    row = guided.guidance.get(guided.images.key(index))
    return None if row is None or row.fallback else row.scale


def _guidance_section(guided: Guided, plan: QuickstartPlan) -> Section:
    from semaug.eval.figures.bars import routing_histogram
    from semaug.eval.report import Column, Figure, Paragraph, Section, Table

    recall = ", ".join(f"{name} **{value:.2f}**" for name, value in guided.recall.items())
    text = f"Recall of the true boxes at IoU 0.5: {recall}. Guidance without learned weights is weak guidance."
    shares = ("keep half the object", "filled 30% by it", "both views keep the same object", "area of the image")
    columns = (Column("crops"), *(Column(name, unit="%", scale=100) for name in shares))
    rows = tuple((name, r.keeps, r.filled, r.same, r.area) for name, r in guided.retention.items())
    note = f"Share of views (of pairs in the third column). p_guided = {plan.p_guided}."
    table = Table("Retention: what crops keep of the true objects", columns, rows, note)
    image = routing_histogram({"scenes": guided.routes})
    routes = Figure(
        image, "Routes the quality score sent the images on.", "share of images on each route", dict(guided.routes)
    )
    quality = _quality_table(guided.quantiles)
    return Section("What the guidance is worth", (Paragraph(text), table, routes, quality))


def _quality_table(quantiles: Mapping[str, Mapping[str, float]]) -> Block:
    from semaug.eval.report import Column, Table

    names = list(next(iter(quantiles.values())))
    columns = (Column("score"), *(Column(name, digits=2) for name in names))
    rows: tuple[tuple[Cell, ...], ...] = tuple((score, *values.values()) for score, values in quantiles.items())
    return Table("Quantiles of the quality score and its parts", columns, rows)


def _map_section(out: Path, scores: Mapping[str, Compared], plan: QuickstartPlan) -> list[Section]:
    import numpy as np

    from semaug.artifacts.sources import ScenesSource
    from semaug.eval.features import Features
    from semaug.eval.figures.embedding import embedding_map, tsne_map
    from semaug.eval.report import Figure, Section

    maps = []
    for name in scores:
        path = out / "runs" / f"{name}-{plan.seeds[0]}" / TEST_FEATURES
        if path.exists():
            with np.load(path, allow_pickle=False) as kept:
                count = len(kept["labels"])
                features = Features(kept["features"], None, kept["labels"], ("",) * count, ScenesSource.class_names)
            maps.append((name, *tsne_map(features)))
    if not maps:
        return []
    image = embedding_map(maps, ScenesSource.class_names)
    caption = (
        f"t-SNE of the test scenes' features, seed {plan.seeds[0]}; colours are classes, which training never saw."
    )
    return [Section("Where the classes lie", (Figure(image, caption, "t-SNE maps, one a variant", wide=True),))]


def _cost_section(guided: Guided, plan: QuickstartPlan) -> Section:
    from semaug.eval.report import Code, Column, Paragraph, Section, Table

    rows = tuple((name, value) for name, value in guided.seconds.items())
    table = Table("Time", (Column("what"), Column("seconds", digits=1)), rows)
    text = (
        f"Every variant trained for {plan.steps} steps; `guided` and `random_box` also need the extraction, which "
        "`standard` could have spent on more steps."
    )
    own = Code("\n".join(COMMANDS), "The same steps on your own folder")
    return Section("What it cost, and your own images", (Paragraph(text), table, own))


def _provenance(guided: Guided, plan: QuickstartPlan) -> Provenance:
    from semaug.eval.report import Provenance

    facts = {"hardware": hardware(), "oracles": "saliency boxes and GrabCut masks, without learned weights"}
    prints = {"images": guided.images.fingerprint, "guidance": guided.guidance.digest}
    return Provenance(("semaug quickstart",), facts, package_versions(), prints, config_of(plan))
