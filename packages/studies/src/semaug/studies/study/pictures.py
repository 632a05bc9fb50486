"""The pictures of a study's report: the variant that gained most beside its control, and the guidance it was given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.studies.study.prepare import Ready
from semaug.studies.study.results import Results, Run, read_results

if TYPE_CHECKING:
    from semaug.eval.report import Block, Section
    from semaug.studies.protocols.subject import Subject

PICTURES = Path("pictures")
"""Where a study keeps what is drawn, below its folder."""
DRAWN_OF = "drawn_of.json"
LEAST_IMAGES = 100
"""Generated test images below which nothing is drawn: a map of forty points tells nothing."""
OF_ENCODERS, OF_GUIDANCE = ("grad-cam",), ("guidance", "failures")
"""Pictures of ``semaug.studies.protocols.figures``."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that is shown: its place, and what its encoder and its pictures are of."""

    run: Run
    train: str
    test: str
    guidance: str | None = None

    def record(self) -> dict[str, Any]:
        """Plain values that change where the picture would: the run, its weights, the images, the guidance."""
        from semaug.ssl_methods import load_card

        weights = load_card(self.run.folder).weights_digest
        return {
            "variant": self.run.variant, "setting": self.run.setting, "seed": self.run.seed, "weights": weights,
            "train": self.train, "test": self.test, "guidance": self.guidance,
        }  # fmt: skip

    @property
    def name(self) -> str:
        """How captions call it."""
        return f"{self.run.variant}, seed {self.run.seed}"


def draw_study_pictures(
    out: Path, ready: Ready, *, device: str = "cpu", on_progress: OnProgress = ignore_progress
) -> None:
    """Draw what the report shows of a finished study and keep it below ``out``; nothing where it is drawn already.

    ``ready`` is what its runs read. A picture that cannot be drawn leaves its reason in its place.
    """
    results, _ = read_results(out)
    generated = results.study.scale.test_items
    shown = [] if generated is not None and generated < LEAST_IMAGES else chosen_runs(results, ready)
    if not shown:
        return
    folder, record = out / PICTURES, json.dumps([one.record() for one in shown], indent=1) + "\n"
    if (folder / DRAWN_OF).is_file() and (folder / DRAWN_OF).read_text("utf-8") == record:
        return
    from semaug.eval.report.stored import store_section

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DRAWN_OF).unlink(missing_ok=True)
    for place, section in enumerate(_drawn(shown, device, on_progress)):
        store_section(section, folder / str(place))
    write_atomic(folder / DRAWN_OF, record.encode())


def picture_sections(out: Path) -> list[Section]:
    """The sections that ``draw_study_pictures`` kept, in order; empty where nothing is drawn."""
    from semaug.eval.report.stored import SECTION, load_section

    folder = out / PICTURES
    if not (folder / DRAWN_OF).is_file():
        return []
    places = sorted((p.parent for p in folder.glob(f"*/{SECTION}")), key=lambda path: int(path.name))
    return [load_section(place) for place in places]


def chosen_runs(results: Results, ready: Ready) -> list[Shown]:
    """The variant of the largest gain, then its control, each by its first finished seed of images; without gains the
    first variant that finished."""
    best = max(results.gains, key=lambda gain: gain.at_steps.mean, default=None)
    if best is not None:
        places = [(best.setting, best.variant), (best.setting, best.control)]
    else:
        places = [(run.setting, run.variant) for run in results.runs if run.rows is not None][:1]
    found = (_first_finished(results, setting, variant) for setting, variant in places)
    return [shown for run in found if run is not None and (shown := _shown(results, ready, run)) is not None]


def _first_finished(results: Results, setting: str, variant: str) -> Run | None:
    finished = (run for run in results.of(setting, variant) if run.rows is not None)
    return next((run for run in finished if (run.folder / "encoder.json").is_file()), None)


def _shown(results: Results, ready: Ready, run: Run) -> Shown | None:
    """What a run was trained and scored on; None where its encoder reads no images."""
    from semaug.ssl_methods import load_card
    from semaug.studies.study.catalogue import settings_of

    preset = results.study.preset
    settings = settings_of(preset)
    place = (settings[run.setting].data if run.setting in settings else "") or "main"
    if place not in ready.data or load_card(run.folder).input_size is None:
        return None
    data, variant = ready.data[place], preset.variants.get(run.variant)
    guidance = None
    if variant is not None and variant.guidance:
        guidance = ready.resolved({"guidance": variant.guidance}, place)["guidance"]
    return Shown(run, data.train, data.test, guidance)


def _drawn(shown: Iterable[Shown], device: str, on_progress: OnProgress) -> Iterator[Section]:
    """Pictures of every encoder, those of one kind in one section, then pictures of the first guidance there is."""
    from semaug.studies.protocols.subject import Subject

    subjects = [
        (one, Subject(
            one.run.folder, one.train, one.test, guidance=Path(one.guidance) if one.guidance else None, device=device,
            keep=False, on_progress=on_progress,
        ))
        for one in shown
    ]  # fmt: skip
    yield _maps([(one.name, subject) for one, subject in subjects])
    for name in OF_ENCODERS:
        yield _together(name, [(one.name, subject) for one, subject in subjects])
    guided = [(one.name, subject) for one, subject in subjects if subject.guidance is not None]
    for name in OF_GUIDANCE if guided else ():
        yield _together(name, guided[:1])


def _maps(subjects: Sequence[tuple[str, Subject]]) -> Section:
    """The test images' features of all encoders by t-SNE, side by side."""
    from semaug.eval.figures.embedding import embedding_map, tsne_map
    from semaug.eval.report import Figure, Paragraph, Section

    title = "Map of the features"
    try:
        tests = [subject.features[1] for _, subject in subjects]
        maps = [(who, *tsne_map(test)) for (who, _), test in zip(subjects, tests, strict=True)]
    except SemaugError as error:
        return Section(title, (Paragraph(f"Not drawn: {error}", "note"),))
    caption = f"Backbone features of {len(maps[0][2]):,} test images by t-SNE; colours are classes, axes mean nothing."
    image = embedding_map(maps, tests[0].class_names)
    return Section(title, (Figure(image, caption, "t-SNE maps, one colour a class", wide=len(maps) > 1),))


def _together(name: str, subjects: Iterable[tuple[str, Subject]]) -> Section:
    """One picture of several subjects as one section; each block's caption starts with whose it is."""
    from semaug.eval.report import Paragraph, Section
    from semaug.studies.protocols.figures import PICTURES as KNOWN
    from semaug.studies.protocols.figures import draw_pictures

    blocks: list[Block] = []
    for who, subject in subjects:
        drawn = draw_pictures(subject, [name])
        found = [block for section in drawn.sections.values() for block in section.blocks]
        blocks += [_captioned(who, block) for block in found if not _names_an_option(block)]
        blocks += [Paragraph(f"{who}: not drawn: {reason}", "note") for reason in drawn.missing.values()]
    return Section(KNOWN[name][0], tuple(blocks))


def _names_an_option(block: Block) -> bool:
    """Whether it tells what to pass to `semaug eval`, which a study has no option for."""
    from semaug.eval.report import Paragraph

    return isinstance(block, Paragraph) and block.tone == "note"


def _captioned(who: str, block: Block) -> Block:
    from semaug.eval.report import Figure, Gallery, Paragraph, Table

    if isinstance(block, Figure | Gallery | Table):
        return replace(block, caption=f"**{who}**. {block.caption}")
    return replace(block, text=f"**{who}**. {block.text}") if isinstance(block, Paragraph) else block
