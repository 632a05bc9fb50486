"""Views of several sizes through one encoder (Caron et al. 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from semaug.ssl_methods.encoder import Encoder


def project_views(encoder: Encoder, views: Sequence[Tensor]) -> list[Tensor]:
    """Projections (B, P) of each view (B, 3, S, S): views of one size pass the backbone together, all the projector.

    Batch statistics are therefore taken over all views of a size, and in the projector over all views.
    """
    groups = [torch.cat(list(group)) for _, group in groupby(views, key=lambda view: view.shape[1:])]
    features = [encoder(group) for group in groups]
    return list(encoder.project(torch.cat(features)).chunk(len(views)))
