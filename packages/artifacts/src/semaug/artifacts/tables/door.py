"""``open_table``: from what a user writes to a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from semaug.artifacts.errors import SemaugError, SourceError
from semaug.artifacts.places import as_path
from semaug.artifacts.sources.query import parse_spec, whole_number
from semaug.artifacts.tables.arrays import labels_beside, read_npy
from semaug.artifacts.tables.h5ad import read_h5ad
from semaug.artifacts.tables.known import PBMC, read_scanpy, read_sklearn, scanpy_file
from semaug.artifacts.tables.labels import read_labels
from semaug.artifacts.tables.parquet import read_parquet
from semaug.artifacts.tables.positives import holds_rows, read_positives
from semaug.artifacts.tables.prepare import TRAIN_SHARE, Preparation, prepare
from semaug.artifacts.tables.raw import RawTable
from semaug.artifacts.tables.recipes import RECIPES
from semaug.artifacts.tables.table import Table
from semaug.artifacts.tables.text import read_text

LABELS = "labels"
OPTIONS = (
    "label", "labels", "layer", "obsm", "obs", "key", "features", "nonzero", "min_class", "steps", "split", "share",
    "seed", "fit",
)  # fmt: skip
SUFFIXES = (".h5ad", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".npy")
SCHEMES = ("table", "scanpy", "sklearn")
Options = Mapping[str, str]


def open_table(spec: str | os.PathLike[str]) -> Table:
    """Open a table by path or by spec, with options in the manner of ``open_source``.

    ``cells.h5ad``, ``.csv(.gz)``, ``.tsv(.gz)``, ``.parquet``, ``.npy``; ``scanpy:pbmc68k_reduced``;
    ``sklearn:digits``; an artifact of rows that DiffAug generated, which takes no options; or a recipe of the paper,
    ``hcl?root=FOLDER`` (``RECIPES``). Options, after a ``?``: ``label``
    (a column of obs), ``labels`` (a file), ``layer`` (`raw` for raw.X) or ``obsm`` of an AnnData file, ``obs`` and
    ``key`` (columns of a text table that are no features), ``features`` (names, or @FILE), ``nonzero``, ``min_class``,
    ``split`` (train, test) with ``share`` and ``seed``, ``steps`` (``STEPS``), and ``fit`` (a file that the steps are
    fitted on in place of the training rows). See ``Preparation``.

    Raises ``SourceError`` or ``InvalidOption`` for what cannot be read or used, ``MissingDependency`` where a package
    is needed that is not installed.
    """
    text = os.fspath(spec)
    with _understood(text):
        return _open_spec(text)


def _open_spec(text: str) -> Table:
    if (artifact := as_path(text).expanduser()).suffix == ".zarr" and artifact.is_dir():
        return read_positives(artifact.resolve())
    full = text if text.partition(":")[0] in SCHEMES and not Path(text).exists() else f"table:{text}"
    name, options = _parse(text, full)
    scheme = full.partition(":")[0]
    if scheme == "table" and name in RECIPES and not Path(name).exists():
        return _open_recipe(text, name, options)
    options.pop("root", None)
    if scheme == "scanpy":
        return _open(text, partial(_scanpy, text, name), {"label": "bulk_labels" if name == PBMC else "", **options})
    if scheme == "sklearn":
        _refuse(text, options, ("layer", "obsm", "obs", "key"), "a table of scikit-learn")
        return _open(text, lambda given: read_sklearn(text, name), {"label": "target", **options})
    path = _existing(name)
    if path.suffix == ".npy" and not options.get("label") and (beside := labels_beside(path)):
        options = {LABELS: str(beside), **options}
    return _open(text, partial(_read_path, text, path), options)


def table_file(spec: str | os.PathLike[str]) -> Path | None:
    """The file that the table of a spec is read from, None for a table of scikit-learn; raises as ``open_table``."""
    text = os.fspath(spec)
    full = text if text.partition(":")[0] in SCHEMES and not Path(text).exists() else f"table:{text}"
    name, options = _parse(text, full)
    if full.startswith("sklearn:"):
        return None
    if full.startswith("scanpy:"):
        return scanpy_file(text, name)
    if name in RECIPES and not Path(name).exists():
        return Path(options.get("root", ".")).expanduser().resolve() / RECIPES[name].file
    return _existing(name)


def is_table(spec: str) -> bool:
    """Whether a spec is one that ``open_table`` alone can take: a scheme, a recipe or a suffix of tables.

    A ``.csv`` or ``.parquet`` file is not: it may be a list of images as well. An artifact is where it holds rows.
    """
    name = spec.partition("?")[0]
    if name.endswith(".zarr"):
        return holds_rows(as_path(name).expanduser())
    known = name in RECIPES or spec.partition(":")[0] in SCHEMES
    return (known and not Path(spec).exists()) or name.endswith((".h5ad", ".npy", ".tsv", ".tsv.gz", ".csv.gz"))


def _parse(text: str, full: str) -> tuple[str, dict[str, str]]:
    if Path(text).exists():
        return text, {}
    name, options = parse_spec(full, (*OPTIONS, "root"))
    if name not in RECIPES and "root" in options:
        raise SourceError(f"{text}: root= is for the recipes {', '.join(RECIPES)}; give the path of the file itself")
    return name, options


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        known = f"{', '.join(RECIPES)} (with ?root=FOLDER), scanpy:{PBMC} or sklearn:digits"
        raise SourceError(f"{path} is no file; give a table ({', '.join(SUFFIXES)}), or one of {known}")
    return path.resolve()


def _open_recipe(spec: str, name: str, options: dict[str, str]) -> Table:
    recipe, root = RECIPES[name], Path(options.pop("root", ".")).expanduser().resolve()
    path = root / recipe.file
    needed = [path, *(root / v for k, v in recipe.options.items() if k == LABELS)]
    for file in needed:
        if not file.is_file():
            raise SourceError(
                f"{spec}: {file} is missing; {recipe.title} needs "
                f"{' and '.join(str(p.relative_to(root)) for p in needed)} below ?root=FOLDER"
            )
    chosen = {k: str(root / v) if k == LABELS else v for k, v in recipe.options.items()} | options
    table = _open(spec, partial(_read_path, spec, path), chosen)
    found = len(table.feature_names)
    if recipe.columns not in (None, found) and not options:
        note = f"the paper has {recipe.columns} columns of {recipe.title}, this file gives {found}"
        return replace(table, notes=(*table.notes, note))
    return table


def _open(spec: str, read: Callable[[Options], RawTable], options: Options) -> Table:
    raw = read(options)
    label = options.get("label")
    if file := options.get(LABELS):
        if label:
            raise SourceError(f"{spec}: label={label} and labels={file} both name the classes; give one")
        values = read_labels(_existing(file), len(raw.keys))
        raw, label = replace(raw, obs={**raw.obs, LABELS: values}), LABELS
    fit_on = _read_path(spec, _existing(options["fit"]), options) if "fit" in options else None
    return prepare(spec, raw, _preparation(spec, options, label or None), fit_on)


@contextmanager
def _understood(spec: str) -> Iterator[None]:
    """Turn what libraries make of a damaged file, which is nearly anything, into a ``SourceError``."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that are too large are refused by name
            yield
    except SemaugError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise SourceError(f"{spec[:200]} cannot be read ({type(error).__name__}: {reason}); write it again") from error


def _preparation(spec: str, options: Options, label: str | None) -> Preparation:
    number = partial(whole_number, spec, dict(options))
    try:
        share = float(options.get("share", TRAIN_SHARE))
    except ValueError as error:
        raise SourceError(f"{spec}: share={options['share']!r} is not a number") from error
    return Preparation(
        label=label,
        min_class=number("min_class"),
        features=_feature_names(options.get("features", "")),
        nonzero=number("nonzero"),
        split=options.get("split"),
        seed=number("seed") or 0,
        share=share,
        steps=options.get("steps", ""),
    )


def _feature_names(text: str) -> tuple[str, ...]:
    if text.startswith("@"):
        text = ",".join(_existing(text[1:]).read_text("utf-8").split())
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _scanpy(spec: str, name: str, options: Options) -> RawTable:
    _refuse(spec, options, ("obs", "key"), "an AnnData file")
    return read_scanpy(spec, name, options.get("layer"), options.get("obsm"))


def _read_path(spec: str, path: Path, options: Options) -> RawTable:
    name = path.name.lower()
    if name.endswith(".h5ad"):
        _refuse(spec, options, ("obs", "key"), "an AnnData file")
        return read_h5ad(path, options.get("layer"), options.get("obsm"))
    _refuse(spec, options, ("layer", "obsm"), f"{path.suffix} (AnnData files have them)")
    if name.endswith(".npy"):
        _refuse(spec, options, ("obs", "key"), "an NPY file")
        return read_npy(path)
    label = options.get("label")
    describing = [n for n in (*options.get("obs", "").split(","), label) if n]
    if name.endswith(".parquet"):
        return read_parquet(path, describing, options.get("key"))
    if name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        return read_text(path, describing, options.get("key"))
    raise SourceError(f"{path} is a file of no known kind; tables are {', '.join(SUFFIXES)}")


def _refuse(spec: str, options: Options, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if options.get(name):
            raise SourceError(f"{spec}: {name}={options[name]} is nothing that {what} has; leave it out")
