"""The report: one file, nothing fetched, everything escaped, the same numbers in JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.errors import ArtifactError, OutputError
from semaug.eval.errors import EvaluationError, ReportError
from semaug.eval.features import Features
from semaug.eval.figures.bars import DifferenceRow, difference_bars, routing_histogram
from semaug.eval.figures.curves import Curve, learning_curves
from semaug.eval.figures.embedding import embedding_map, tsne_map
from semaug.eval.figures.knn import knn_curves, knn_heatmap
from semaug.eval.probes.knn import KnnGrid
from semaug.eval.report import (
    Card,
    Code,
    Column,
    Figure,
    Gallery,
    Highlight,
    Missing,
    Paragraph,
    Provenance,
    Report,
    Section,
    Sheet,
    SheetRow,
    Table,
    load_section,
    render_html,
    store_section,
    write_report,
)
from semaug.eval.report.cells import show_cell, show_table
from semaug.eval.statistics import paired_difference, summarise

NASTY = "<script>alert('$x$ & \"y\"')</script>"
GRID = KnnGrid(
    "backbone", (1, 20, 50), (0.07, 0.5), np.asarray([[0.5, 0.5], [0.7, 0.6], [np.nan, np.nan]]), None, 9, 30
)


def all_figures(image_format: str = "svg") -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(30, 2)).astype(np.float32), np.arange(30) % 3
    difference = paired_difference([0.6, 0.61, 0.62], [0.5, 0.52, 0.51])
    shared = {"image_format": image_format}
    return {
        "curves": learning_curves([Curve(NASTY, [0, 1, 2], [[1, 2, 3], [2, 3, np.nan]])], "kNN", **shared),
        "map": embedding_map([(NASTY, points, labels)], ("a", NASTY, "$c"), **shared),
        "heatmap": knn_heatmap([(NASTY, GRID)], **shared),
        "knn": knn_curves([(NASTY, GRID)], **shared),
        "routes": routing_histogram({NASTY: {"object": 3, "hybrid": 9}}, **shared),
        "differences": difference_bars([DifferenceRow(NASTY, difference, [0.1, 0.09])], "points", **shared),
    }


def full_report() -> Report:
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    table = Table(
        NASTY,
        (Column("variant"), Column(NASTY, scale=100, best="max", help=NASTY), Column("d", signed=True), Column("n")),
        (
            ("standard", summarise([0.5, 0.52]), Missing(NASTY), 3),
            (NASTY, summarise([0.6, 0.61]), paired_difference([0.6, 0.61], [0.5, 0.52]), None),
        ),
        note=NASTY,
    )
    sheet = Sheet(
        NASTY, ("image", "guided", "guided"), (SheetRow(NASTY, (photograph, photograph.resize((40, 40)), None)),)
    )
    figures = tuple(
        Figure(image, NASTY, NASTY, {"value": np.float32(1.5), "nan": float("nan")}) for image in all_figures().values()
    )
    blocks = (Paragraph(f"{NASTY}\n\n`code` **strong**"), Paragraph("careful", "warning"), Code(NASTY, NASTY), table)
    gallery = Gallery(NASTY, (NASTY, "heat"), (Card(NASTY, (photograph, photograph.resize((40, 40)))),))
    sections = (Section(NASTY, blocks), Section("Sheet", (sheet, gallery)), Section("Figures", figures))
    provenance = Provenance((NASTY,), {"machine": NASTY}, {"torch": "2"}, {"train": "ab" * 16}, {"lr": 0.1, "x": NASTY})
    return Report(NASTY, NASTY, sections, provenance, NASTY, (Highlight(NASTY, "1%", NASTY),))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def test_the_page_is_well_formed_escaped_and_fetches_nothing() -> None:
    text = render_html(full_report())
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("alert(") > 10  # the text is there, as text
    assert "<code>code</code> <strong>strong</strong>" in text


def test_every_image_has_its_text_and_every_anchor_its_target() -> None:
    page = Page(render_html(full_report()))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 10
    assert all(attributes["alt"] and attributes["width"] and attributes["height"] for attributes in pictures)
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 4
    assert all(link[1:] in targets for link in links)


def test_the_page_follows_the_readers_colour_scheme_and_screen() -> None:
    text = render_html(full_report())
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for name, image in all_figures().items():
        assert b"prefers-color-scheme:dark" in image, name
        assert b"#1f2833" not in image.split(b"</style>", 1)[1], name


def test_results_hold_the_tables_unrounded_and_no_nan(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", full_report())
    assert path.read_text().startswith("<!doctype html>")
    text = (tmp_path / "new" / "results.json").read_text()
    assert "NaN" not in text
    results = json.loads(text)
    table = results["sections"][0]["blocks"][3]
    assert table["rows"][0] == ["standard", {"mean": 0.51, "sd": pytest.approx(0.0141421356), "n": 2},
                                {"value": None, "reason": NASTY}, 3]  # fmt: skip
    assert table["rows"][1][2]["mean"] == pytest.approx(0.095)
    assert results["sections"][2]["blocks"][0]["data"] == {"value": 1.5, "nan": None}
    assert results["provenance"]["config"]["lr"] == 0.1
    assert sorted(item.name for item in path.parent.iterdir()) == ["report.html", "results.json"]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render_html(full_report()) == render_html(full_report())


def test_a_section_on_disk_comes_back_as_it_was(tmp_path: Path) -> None:
    report = full_report()
    for number, section in enumerate(report.sections):
        files = store_section(section, tmp_path / str(number))
        assert all(path.stat().st_size for path in files)
    kept = tuple(load_section(tmp_path / str(number)) for number in range(len(report.sections)))
    assert kept[0] == report.sections[0]
    assert render_html(report) == render_html(replace(report, sections=kept))
    assert [path.suffix for path in files] == [".svg"] * 6
    store_section(Section("none", ()), tmp_path / "2")  # what was there goes
    assert [path.name for path in (tmp_path / "2").iterdir()] == ["section.json"]
    (tmp_path / "2" / "section.json").write_text('{"title": "x", "blocks": [{"kind": "Nothing"}]}')
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_section(tmp_path / "2")


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(blocked / "report.html", full_report())


def test_cells_are_rounded_signed_and_explained() -> None:
    points = Column("d", scale=100, signed=True)
    difference = show_cell(paired_difference([0.5, 0.52], [0.6, 0.61]), points)
    assert difference.text == "−9.5"
    assert re.fullmatch(r"\[−\d+\.\d, −?\+?\d+\.\d\]", difference.aside)
    assert show_cell(-0.0004, points).text == "0.0"
    assert show_cell(0.123, points).text == "+12.3"
    assert show_cell(12345, Column("n")).text == "12,345"
    assert show_cell(float("nan"), Column("x")).reason == "not a finite number"
    assert show_cell(summarise([0.5]), Column("x", digits=2)).aside == ""


def test_the_best_of_a_column_is_marked_unless_all_are_equal() -> None:
    def marks(best: str, values: list[object]) -> list[bool]:
        table = Table("t", (Column("x", best=best),), tuple((value,) for value in values))
        return [row[0].best for row in show_table(table)]

    assert marks("max", [1.0, summarise([3.0]), None, 2]) == [False, True, False, False]
    assert marks("min", [1.0, 3.0, float("nan")]) == [True, False, False]
    assert marks("max", [2.0, 2.0]) == [False, False]


def test_a_report_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ReportError, match="a row of 1 cells under 2 columns"):
        Table("t", (Column("a"), Column("b")), (("x",),))
    with pytest.raises(ReportError, match="2 images under 1 columns"):
        Sheet("s", ("a",), (SheetRow("r", (None, None)),))
    with pytest.raises(ReportError, match="0 images under 1 headings"):
        Gallery("g", ("a",), (Card("c", ()),))
    with pytest.raises(ReportError, match="no alternative text"):
        Figure(b"", "caption", " ")
    with pytest.raises(ReportError, match="neither PNG nor SVG"):
        render_html(Report("t", "v", (Section("s", (Figure(b"GIF89a", "c", "alt"),)),)))


def test_figures_are_xml_that_shows_names_as_they_are() -> None:
    for name, image in all_figures().items():
        words = "".join(ElementTree.fromstring(image.decode()).itertext())
        assert NASTY in words, name
    assert "70.0" in "".join(ElementTree.fromstring(all_figures()["heatmap"].decode()).itertext())
    routes = "".join(ElementTree.fromstring(all_figures()["routes"].decode()).itertext())
    assert "25%" in routes
    assert "75%" in routes


def test_figures_come_as_png_too_and_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    for name, image in all_figures("png").items():
        assert image.startswith(b"\x89PNG"), name
    assert dict(matplotlib.rcParams) == before


def test_a_curve_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(EvaluationError, match="3 steps and 2 values"):
        Curve("x", [0, 1, 2], [[1, 2]])


def test_the_map_keeps_clusters_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    values = (10 * np.eye(3, 8)[labels] + 0.3 * rng.normal(size=(90, 8))).astype(np.float32)
    keys = tuple(str(i) for i in range(90))
    points, kept = tsne_map(Features(values, None, labels, keys, ("a", "b", "c")), limit=60)
    assert points.shape == (60, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(60)
    assert (kept[distances.argmin(1)] == kept).all()
    with pytest.raises(EvaluationError, match="at least 8"):
        tsne_map(Features(values[:4], None, labels[:4], keys[:4], ("a", "b", "c")))
