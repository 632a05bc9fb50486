"""A queue of keys is checked against the images only once a run begins: no preset may wait until then."""

from __future__ import annotations

import pytest

from semaug.studies.study.catalogue import open_preset, study_names


@pytest.mark.parametrize("name", study_names())
def test_generated_images_fill_every_queue_twice(name: str) -> None:
    preset = open_preset(name, checked=False)
    methods = {preset.method, *(setting.method for setting in preset.settings.values())}
    methods |= {variant.method for variant in preset.variants.values()}
    for scale in (preset.scales[found] for found in ("tiny", "smoke")):
        assert scale.train_items
        for method, options in scale.hyperparameters.items():
            if method in methods and "queue" in options:
                assert 2 * options["queue"] <= scale.train_items, (method, options)
