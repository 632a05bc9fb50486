"""Pairs guided by the encoder that they train: standard views until its first boxes come (Peng et al., CVPR 2022)."""

from __future__ import annotations

import copy

import torch

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.pairs_dataset.objects import object_rows
from semaug.pairs_dataset.sources.guided import GuidedPairs


class SelfGuidedPairs(GuidedPairs):
    """Guided pairs whose boxes change while a run trains; without objects, as at first, all views are standard."""

    def guided_by(self, table: GuidanceTable) -> SelfGuidedPairs:
        """The same images, draws and options with the boxes of ``table``; an image it lacks takes standard views.

        The pairs returned have an epoch of their own. Raises ``ArtifactError`` for guidance of other images.
        """
        if table.source:
            table.require_source(self.source.fingerprint)
        pairs = copy.copy(self)
        pairs._epoch = torch.tensor([self.epoch]).share_memory_()
        pairs._epoch_now = pairs._epoch.numpy()
        pairs.objects = object_rows([self.source.key(int(i)) for i in self.images], table)
        return pairs
