"""The classes of the Semantic Pairs data set, as printed (spec S3.2): nothing is added to what the paper names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

from semaug.artifacts.errors import InvalidOption

PRINTED = "printed"


@dataclass(frozen=True, slots=True)
class SemanticClass:
    """One printed name, its group, and its WordNet id where ImageNet-1k has the class (empty otherwise).

    ``lemma`` is the name under which ImageNet lists it, where the paper writes another.
    """

    name: str
    group: str
    wnid: str = ""
    lemma: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything a folder of this class may be called."""
        return tuple(text for text in (self.name, self.lemma, self.wnid) if text)


@dataclass(frozen=True)
class ClassList:
    """Class names to hold a set of pairs against; ``expected`` is the number of classes that its source counts."""

    classes: tuple[SemanticClass, ...]
    expected: int

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> ClassList:
        """``printed``, or a text file with one class name a line; raises ``InvalidOption``."""
        if name == PRINTED:
            return printed_classes()
        try:
            lines = [line.strip() for line in Path(name).read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption(
                f"cannot read the class list {name}: {error}; give `{PRINTED}` or a text file"
            ) from error
        found = tuple(SemanticClass(line, "") for line in lines if line)
        if len({c.name for c in found}) < len(found) or not found:
            raise InvalidOption(f"{name} names {len(found)} classes, some twice or none; give one name a line")
        return cls(found, len(found))

    def find(self, name: str) -> SemanticClass | None:
        """The class that a folder's name, lemma or WordNet id means; spaces and underscores are alike."""
        return self._by_name.get(_plain(name))

    @cached_property
    def _by_name(self) -> dict[str, SemanticClass]:
        return {_plain(text): found for found in self.classes for text in found.names}

    def warnings(self, names: Iterable[str]) -> list[str]:
        """What a set of pairs with the classes ``names`` should know: unknown and missing ones, and the gap itself."""
        by_name, told = self._by_name, []
        names = list(names)
        known = {by_name[_plain(name)].name for name in names if _plain(name) in by_name}
        unknown = [name for name in names if _plain(name) not in by_name]
        missing = [found.name for found in self.classes if found.name not in known]
        if len(self.classes) < self.expected:
            told.append(
                f"the list names {len(self.classes)} classes, its source counts {self.expected}; none is made up"
            )
        if unknown:
            told.append(f"{len(unknown)} classes are not in the list: {_some(unknown)}")
        if missing:
            told.append(f"{len(missing)} classes of the list have no pairs: {_some(missing)}")
        return told


def _plain(name: str) -> str:
    return name.replace(" ", "_").replace("’", "'").casefold()


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


@lru_cache(1)
def printed_classes() -> ClassList:
    """The 175 names as printed, of the 187 classes that the paper counts.

    >>> found = printed_classes()
    >>> len(found.classes), found.expected, found.find("n04486054").name
    (175, 187, 'triumph_arch')
    """
    plain = json.loads((files("semaug.pairs_dataset") / "semantic_classes.json").read_text("utf-8"))
    wnids, aliases = plain["wnids"], plain["aliases"]
    rows = [
        SemanticClass(name, group, wnids.get(name, ""), aliases.get(name, ""))
        for group, names in plain["groups"].items()
        for name in names
    ]
    return ClassList(tuple(rows), plain["expected"])
