"""Guided pairs: crops biased by objects (SDI, spec S1.4), online; and the controls, which guide by no meaning."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.backgrounds import MaskMode, soften_background
from semaug.pairs_dataset.crops import CropRule, plan_item
from semaug.pairs_dataset.objects import ObjectRows
from semaug.pairs_dataset.photometrics import render_views
from semaug.pairs_dataset.sources.base import PairSource, Plan, ViewSettings

GuidedViews = Literal["both", "one"]
BoxScope = Literal["image", "view"]


class GuidedPairs(PairSource):
    """Each view is guided with probability ``p_guided`` (``guided_views="one"``: only the second, Eq. 2).

    ``objects`` holds one row an item of ``images``; an image without objects gives exactly the standard views. One
    object is drawn an image and epoch, so that both views hold the same (``box_scope="view"``: one a view).
    ``mask_mode`` other than ``crop_only`` alters the pixels outside the mask of a guided view. Local views are guided
    with the same probability where ``views.local`` says so.
    """

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
        objects: ObjectRows,
        p_guided: float = 1.0,
        guided_views: GuidedViews = "both",
        box_scope: BoxScope = "image",
        mask_mode: MaskMode = "crop_only",
    ) -> None:
        super().__init__(source, images, views, seed=seed, rule=rule)
        _check(p_guided, guided_views, box_scope, mask_mode)
        self.objects, self.box_scope, self.mask_mode = objects, box_scope, mask_mode
        objects_drawn = self._draws["crop"] if box_scope == "view" else (("crop", 0),)
        self._draws["crop and object"] = self._draws["crop"] + tuple(("object", v) for _, v in objects_drawn)
        self._needs_whole = mask_mode != "crop_only"
        local = [p_guided if views.local and views.local.guided else 0.0] * views.local_count
        self._shares = np.array([p_guided if guided_views == "both" else 0.0, p_guided, *local])

    def _plan(self, position: int, copy: int, key: str, height: int, width: int) -> Plan:
        views, rows = len(self._rules), self.objects
        keys = self._keys("crop and object", key, copy)
        crops, chosen = np.empty((views, 4), np.int64), np.empty(views, np.int64)
        plan_item(
            height, width, keys, self._shares, position, rows.first, rows.boxes, rows.runs, rows.run_first, rows.sizes,
            self._rules, crops, chosen,
        )  # fmt: skip
        return Plan(crops, chosen)

    def _render(
        self, position: int, image: NDArray[np.uint8], plan: Plan, keys: NDArray[np.uint64], views: slice,
        out: NDArray[np.float32],
    ) -> None:  # fmt: skip
        if self.mask_mode == "crop_only" or plan.chosen[views].max() < 0:
            PairSource._render(self, position, image, plan, keys, views, out)
            return
        altered = {c: self._altered(position, image, c) for c in set(plan.chosen[views].tolist())}
        for k, v in enumerate(range(views.start, views.stop)):
            one = slice(v, v + 1)
            render_views(
                altered[int(plan.chosen[v])], plan.crops[one], keys[one], self._recipes[one], self._norm,
                self._scratch(), out[k : k + 1],
            )  # fmt: skip

    def _altered(self, position: int, image: NDArray[np.uint8], chosen: int) -> NDArray[np.uint8]:
        """The image with its background softened; as it is where the view has no object with a mask."""
        if chosen < 0:
            return image
        _, run_first, mask_size = self.objects.row(position)
        runs = self.objects.runs[run_first[chosen] : run_first[chosen + 1]]
        fill = self.mask_mode == "bg_fill"
        return soften_background(image, runs, (int(mask_size[0]), int(mask_size[1])), fill=fill)


def _check(p_guided: float, guided_views: str, box_scope: str, mask_mode: str) -> None:
    if not 0 <= p_guided <= 1:
        raise InvalidOption(f"p_guided is {p_guided}; give a probability from 0 to 1")
    for name, value, choices in (
        ("guided_views", guided_views, get_args(GuidedViews)),
        ("box_scope", box_scope, get_args(BoxScope)),
        ("mask_mode", mask_mode, get_args(MaskMode)),
    ):
        if value not in choices:
            raise InvalidOption(f"{name} is {value!r}; choose one of {', '.join(choices)}")
