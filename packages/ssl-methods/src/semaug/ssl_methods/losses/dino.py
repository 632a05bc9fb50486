"""DINO's loss (Caron et al. 2021, Eq. 1 to 4): the student predicts the teacher's centred, sharpened output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.ssl_methods.gathering import Gathering, mean_over_ranks
from semaug.ssl_methods.losses.inputs import full, require_temperature
from semaug.ssl_methods.losses.swapped import require_views, swapped_cross_entropy


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    gathering: Gathering = "none",
) -> Tensor:
    """Mean of H(softmax((teacher t - centre) / teacher_temperature), softmax(student v / student_temperature)).

    Over local rows and all pairs of a global view t and a view v other than t. ``student`` (N, K) is one a view, global
    views first, ``teacher`` (N, K) one a global view, without gradient; ``centre`` (K,) is that of earlier steps (see
    ``centre_of``). Rows are independent, so nothing is gathered. Computed in float32 (float64 for float64 input) also
    under autocast. Returns a scalar. Raises ``InvalidOption`` for temperatures that are not positive or shapes that
    differ.

    >>> alike = [torch.zeros(4, 8)] * 2
    >>> bool(torch.isclose(dino_loss(alike, alike, torch.zeros(8)), torch.tensor(8.0).log()))
    True
    """
    require_views(teacher, student)
    require_temperature(student_temperature)
    require_temperature(teacher_temperature)
    with torch.autocast(student[0].device.type, enabled=False):
        targets = [((full(t.detach()) - centre) / teacher_temperature).softmax(dim=1) for t in teacher]
        return swapped_cross_entropy(targets, [full(s) / student_temperature for s in student])


@torch.no_grad()
def centre_of(teacher: Sequence[Tensor]) -> Tensor:
    """The mean (K,) of the teacher's outputs (N, K) over rows, global views and all ranks."""
    return mean_over_ranks(torch.stack([full(t.detach()).mean(dim=0) for t in teacher]).mean(dim=0))
