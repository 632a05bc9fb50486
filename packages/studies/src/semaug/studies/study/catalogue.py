"""The presets: TOML files beside the package, which share parts by ``extends``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.outside import parse_toml, read_regular
from semaug.studies.study.paper import PAPERS, PaperCell, paper_cell
from semaug.studies.study.schema import Preset, Scale, Setting, Variant

FOLDER = Path(__file__).parents[1] / "presets"
EXTENDS, WITHOUT = "extends", "without"
_NAME = re.compile(r"[\w.-]+")
_PLACE = re.compile(r"\{(\w+)\}")
WHOLE = "all"
"""The name of the one setting of a preset that names none."""


@cache
def study_names() -> tuple[str, ...]:
    """The presets in the package, by paper and then by table."""
    files = (path for path in FOLDER.glob("*.toml") if path.stem[0] != "_")
    names = [path.stem for path in files if "kind" in _merged(path, ())]
    return tuple(sorted(names, key=_order))


def _order(name: str) -> tuple[Any, ...]:
    paper, _, item = name.rpartition("-")
    number = int(item) if item.isdigit() else 99
    return (paper.removesuffix("-figure").removesuffix("-table"), "figure" in paper, number, name)


def open_preset(name: str, *, checked: bool = True) -> Preset:
    """A preset by name, or one's own by the path of its TOML file.

    One of the package may go un``checked`` by its kind, which takes seconds of imports and which tests have done.
    Raises ``InvalidOption`` for a name that is not there, for keys that are not known, and for a map that leads to no
    cell of the paper.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file() or (path.parent == FOLDER and path.stem not in study_names()):
        near = difflib.get_close_matches(name, study_names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else "`semaug study list` names them"
        raise InvalidOption(f"no study is called {name!r}; {hint}")
    return read_preset(_merged(path, ()), path.name, checked=checked or path.parent != FOLDER)


def read_preset(table: Mapping[str, Any], where: str = "the preset", *, checked: bool = True) -> Preset:
    """A preset from its table; raises ``InvalidOption`` naming the first key or value that cannot be."""
    from semaug.studies.study.kinds import kind_of

    try:
        preset = Preset.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        more = f" ({error.error_count()} in all)" if error.error_count() > 1 else ""
        got = repr(first["input"])[:200]
        raise InvalidOption(f"{where}: {place}: {first['msg']}, got {got}{more}") from error
    _check_references(preset, where)
    if checked:
        kind_of(preset).check(preset)
    printed_cells(preset)
    return preset


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The table of a file laid over those that it extends; a table named in ``without`` is not taken over."""
    try:
        own = parse_toml(read_regular(path).decode())
    except (OSError, ValueError) as error:
        raise InvalidOption(f"{path} is no readable TOML: {str(error)[:200]}") from error
    if path in above:
        raise InvalidOption(f"{path.name} extends itself through {above[-1].name}; take one `{EXTENDS}` out")
    base, left_out = own.pop(EXTENDS, None), own.pop(WITHOUT, [])
    if base is None:
        return own
    if not isinstance(base, str) or not _NAME.fullmatch(base) or not isinstance(left_out, list):
        raise InvalidOption(
            f"{path.name} extends {str(base)[:60]!r} without {str(left_out)[:60]}; name a preset and a list"
        )
    beside = path.with_name(f"{base}.toml")
    under = _merged(beside if beside.is_file() else FOLDER / f"{base}.toml", (*above, path))
    return _laid_over({key: value for key, value in under.items() if key not in left_out}, own)


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _laid_over(result[key], value) if both else value
    return result


def _check_references(preset: Preset, where: str) -> None:
    """Artifacts and data that are used must be there."""
    for name, setting in settings_of(preset).items():
        if (setting.data or "main") not in preset.data:
            known = ", ".join(preset.data) or "none"
            raise InvalidOption(f"{where}: setting {name!r} takes data {setting.data or 'main'!r}; there are {known}")
    used = [(f"variant {n!r}", {**v.options, "guidance": v.guidance}) for n, v in preset.variants.items()]
    used.append(("the table of options", preset.options))
    used += [(f"artifact {n!r}", a.options) for n, a in preset.artifacts.items()]
    for user, options in used:
        for artifact in references(options):
            if artifact not in preset.artifacts:
                known = ", ".join(preset.artifacts) or "none"
                raise InvalidOption(f"{where}: {user} uses @{artifact}; there are the artifacts {known}")


def references(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The artifacts that options name, alone or in a list.

    >>> references({"synthetic": "@sasi", "mode": "a", "others": ["@mask"]})
    ('sasi', 'mask')
    """
    values = [v for value in options.values() for v in (value if isinstance(value, list) else [value])]
    return tuple(value[1:] for value in values if isinstance(value, str) and value.startswith("@"))


def settings_of(preset: Preset) -> dict[str, Setting]:
    """The settings of a preset; one without a table of them has a single one, ``all``."""
    return dict(preset.settings) or ({WHOLE: Setting()} if preset.variants else {})


def scale_of(preset: Preset, name: str) -> Scale:
    """A scale by name; raises ``InvalidOption`` naming those there are."""
    if name not in preset.scales:
        raise InvalidOption(f"{preset.name} has no scale {name!r}; choose one of {', '.join(preset.scales)}")
    return preset.scales[name]


def printed_cells(preset: Preset) -> dict[tuple[str, str, str], PaperCell]:
    """(setting, variant, metric) -> the printed cell beside it; raises ``InvalidOption`` where one is not there."""
    if preset.paper not in PAPERS:
        raise InvalidOption(f"{preset.name}: paper {preset.paper!r} is not known; choose one of {', '.join(PAPERS)}")
    if preset.cells is None:
        return {}
    found: dict[tuple[str, str, str], PaperCell] = {}
    for setting, s in settings_of(preset).items():
        for variant, v in preset.variants.items():
            names = {"setting": _cell_name(setting, s), "variant": _cell_name(variant, v)}
            if all(names.values()):
                found |= _cells_of(preset, setting, variant, names)
    return found


def _cell_name(name: str, named: Setting | Variant) -> str:
    return name if named.cell is None else named.cell


def filled(template: str, **names: str) -> str:
    """``template`` with each ``{name}`` replaced; braces about anything else stay as they are.

    >>> filled("{variant} at {width:>99}", variant="SDI")
    'SDI at {width:>99}'
    """
    return _PLACE.sub(lambda found: names.get(found[1], found[0]), template)


def _cells_of(
    preset: Preset, setting: str, variant: str, names: Mapping[str, str]
) -> dict[tuple[str, str, str], PaperCell]:
    assert preset.cells is not None
    cells = preset.cells
    found: dict[tuple[str, str, str], PaperCell] = {}
    for measure, metric in cells.measures.items():
        parts = measure.split("|")  # a table may have one part of what is measured in its rows, another in its columns
        row = filled(cells.row, **names, measure=parts[0])
        column = filled(cells.column, **names, measure=parts[-1])
        place = setting, variant, filled(metric, setting=setting, variant=variant)
        found[place] = paper_cell(preset.paper, preset.item, row, column)
    return found
