"""A preset as it is written in TOML: what pydantic accepts, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Numbers = dict[str, Any]
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$", max_length=100)]
"""A name that a file or folder of the study bears."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Table):
    """One data set: what the paper has, and what stands in for it where that is not given.

    ``wants`` names it for a person; ``named`` is its name among the known sets (``dtd``, ``imagenet100``), which opens
    it below a data root, ``train`` and ``test`` are its splits there. ``stand_in`` is `scenes` (generated images), or
    any spec, which then is both training and test data. ``boxes`` data are annotated images, for detection;
    ``train_only`` data are never tested on. Where training images alone are given, the share ``held_out`` of them is
    kept for testing.
    """

    wants: str
    named: str = ""
    train: str = ""
    test: str = ""
    stand_in: str = "scenes"
    boxes: bool = False
    train_only: bool = False
    held_out: float = Field(default=0.0, ge=0, lt=1)


class Scale(_Table):
    """How large a study is. What is None is the recipe's; ``text`` says how long it takes.

    ``steps`` stand for the preset's ``epochs`` (a setting's other number of epochs is taken in proportion), None for
    those epochs themselves. ``train_items`` and ``test_items`` are the sizes of generated stand-ins; with none, data
    and weights must be given. ``hyperparameters`` are by method. ``longer`` says how long the control at equal total
    cost trains: as long as the variant's cost was `measured` to be, as the `paper` has it, or not at all (`none`);
    never more than ``longer_most`` times the steps. ``evaluations`` and ``synthesis`` replace options of those.
    """

    text: str
    seeds: int = Field(ge=1)
    size: int = Field(ge=8)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=2)
    backbone: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    train_items: int | None = None
    test_items: int | None = None
    longer: Literal["measured", "paper", "none"] = "measured"
    longer_most: float = 4.0
    hyperparameters: dict[str, Numbers] = {}
    recipes: dict[str, str] = {}
    evaluations: dict[str, Numbers] = {}
    artifacts: dict[str, Numbers] = {}
    options: Numbers = {}


class ArtifactSpec(_Table):
    """One artifact to prepare: ``kind`` is a maker's (``prepare.MAKERS``), ``options`` are its own.

    An option that reads ``@name`` is another artifact. ``paper_cost`` is what making it took in the paper, as a
    multiple of the baseline's training.
    """

    kind: str
    options: Numbers = {}
    paper_cost: float = 0.0


class Variant(_Table):
    """What differs: the pairs and their options (``@name`` is an artifact), and what replaces the setting's.

    ``steps`` multiplies the number of steps, ``compute`` says how much more a step costs. ``control`` marks what a
    verdict is taken against. ``cell`` is the name that the paper's cells use (its own by default, none for "").
    """

    title: str = ""
    pairs: str = "standard"
    options: Numbers = {}
    guidance: str | None = None
    method: str | None = None
    recipe: str | None = None
    hyperparameters: Numbers = {}
    steps: float = Field(default=1.0, gt=0)
    compute: float = Field(default=1.0, gt=0)
    control: bool = False
    cell: str | None = None


class Setting(_Table):
    """In what variants are compared: a method on a backbone and a data set. What is None is the preset's; ``size`` is
    the side of its images where that is less than the scale's."""

    title: str = ""
    method: str | None = None
    recipe: str | None = None
    backbone: str | None = None
    backbone_options: Numbers = {}
    data: str | None = None
    size: int | None = None
    epochs: float | None = None
    hyperparameters: Numbers = {}
    cell: str | None = None


class Cells(_Table):
    """Which cell of the paper a result stands beside: ``row`` and ``column`` are templates of ``{setting}``,
    ``{variant}`` and ``{measure}``; ``measures`` maps the last to our metric, which may name ``{setting}`` and
    ``{variant}`` too. A measure `a|b` is `a` in the row and `b` in the column. ``unit_scale`` turns a metric into the
    paper's unit (100 for per cent).
    """

    row: str = "{variant}"
    column: str = "{measure}"
    measures: dict[str, str]
    unit_scale: float = 100.0


class Preset(_Table):
    """One study. ``text`` says what it is, how long each scale takes, what it should score, and the command."""

    name: str
    paper: str
    item: str
    title: str
    text: str
    kind: str = "training"
    method: str = "simclr"
    recipe: str | None = None
    backbone: str | None = None
    epochs: float = 200
    pair_options: Numbers = {}
    data: dict[FileName, Data] = {}
    scales: dict[str, Scale]
    artifacts: dict[FileName, ArtifactSpec] = {}
    settings: dict[str, Setting] = {}
    variants: dict[str, Variant] = {}
    evaluations: dict[str, Numbers] = {"linear": {}, "knn": {}}
    primary: str = "linear/top1"
    measurements: dict[FileName, Numbers] = {}
    cells: Cells | None = None
    reasons: tuple[str, ...] = ()
    """Why even scale `paper` is not the paper's experiment."""
    options: Numbers = {}
    """What the kind takes beside all this."""
