"""The ablations of DiffAug (paper Tables 4 and 5, Fig. 4) as changes of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.settings import DiffAugSettings


@dataclass(frozen=True, slots=True)
class Ablation:
    """What is changed of the full method; ``doubt`` is what the paper leaves open or contradicts, empty for none."""

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    doubt: str = ""

    def apply(self, settings: DiffAugSettings) -> DiffAugSettings:
        """``settings`` with the changes; raises ``InvalidOption``."""
        return replace(settings, **self.changes)


ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""The probabilities of Fig. 4."""


def alpha_sweep(alphas: Iterable[float] = ALPHAS) -> dict[str, Ablation]:
    """One ablation for each of ``alphas``, named ``alpha-A``; alpha 0 ends with the encoder of B2, bit for bit.

    >>> list(alpha_sweep([0, 0.15]))
    ['alpha-0', 'alpha-0.15']
    """
    doubt = "the official code draws from a normal where a uniform is meant: its 0.1 is 18.4 % of the views"
    return {
        f"alpha-{a:g}": Ablation(f"generated views with probability {a:g}", {"alpha": float(a)}, doubt) for a in alphas
    }


ABLATIONS: dict[str, Ablation] = {
    "A1": Ablation(
        "the generator is told the label",
        {"condition": "label"},
        "reads labels, which no other one does; prints A3's value for CIFAR-10",
    ),
    "A2": Ablation(
        "the generator is told noise, drawn anew for every sample",
        {"condition": "random"},
        "prints 5.6 to 34.2 %, far below B2, which draws no generated view at all, though one view in ten is generated",
    ),
    "A3": Ablation("the full method", {}, "prints B5's values in all eight cells: the full method is the joint one"),
    "B1": Ablation(
        "InfoNCE on hand-made augmentation, without a generator",
        {"loss": "infonce", "generate": False},
        "equals B2 in all eight cells and DLME's row; SimCLR itself prints 84.2 on CIFAR-10, so the label is doubtful",
    ),
    "B2": Ablation(
        "the soft contrastive loss on hand-made augmentation, without a generator",
        {"loss": "soft", "generate": False},
        "equals B1 in all eight cells; on cells DMT-EV's row but for SAM (63.6), MCA (58.3) and Gast (85.6)",
    ),
    "B3": Ablation("InfoNCE in place of the soft contrastive loss, with generated views", {"loss": "infonce"}),
    "B4": Ablation("encoder and generator take turns (EM)", {"schedule": "em"}),
    "B5": Ablation(
        "encoder and generator trained at every step (Eq. 6)",
        {"schedule": "joint"},
        "the text describes EM, the tables call the joint training the method",
    ),
    **alpha_sweep(),
}
"""Name -> what it changes."""


def ablate(settings: DiffAugSettings, name: str) -> DiffAugSettings:
    """``settings`` under the ablation ``name``; raises ``InvalidOption`` for an unknown one.

    >>> ablate(DiffAugSettings(), "B4").schedule
    'em'
    """
    if name not in ABLATIONS:
        raise InvalidOption(f"ablation {name!r} is not known; choose one of {', '.join(ABLATIONS)}")
    return ABLATIONS[name].apply(settings)
