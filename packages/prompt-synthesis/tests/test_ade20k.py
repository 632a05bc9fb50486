"""ADE20K's palette: facts, the way to colours and back, and the labels of models in use."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis import ade20k
from semaug.prompt_synthesis.ade20k import (
    TWINS,
    UNLABELLED,
    class_names,
    class_of,
    palette,
    snap,
    to_classes,
    to_colours,
)

DATA = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).parents[4] / "shared"))
NUMBERS = st.sampled_from([*range(150), UNLABELLED])


def test_the_palette_is_the_published_one():
    assert len(class_names()) == len(set(class_names())) == 150
    known = {"wall": (120, 120, 120), "sky": (6, 230, 230), "person": (150, 5, 61), "animal": (255, 0, 122)}
    known |= {"tree": (4, 200, 3), "grass": (4, 250, 7), "car": (0, 102, 200), "flag": (92, 0, 255)}
    for name, colour in known.items():
        assert tuple(palette()[class_names().index(name)]) == colour
    assert not palette()[UNLABELLED].any()
    assert len(np.unique(palette()[:150], axis=0)) == 149
    assert {class_names()[a]: class_names()[b] for a, b in TWINS.items()} == {"skyscraper": "road"}


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=NUMBERS))
def test_classes_to_colours_and_back(classes):
    colours = to_colours(classes)
    assert colours.shape == (*classes.shape, 3)
    back = to_classes(colours)
    np.testing.assert_array_equal(back, np.where(classes == 48, 6, classes))
    np.testing.assert_array_equal(to_colours(back), colours)
    np.testing.assert_array_equal(snap(colours), colours)


@given(arrays.arrays(np.uint8, (3, 4, 3)))
def test_snapping_finds_the_nearest_colour(image):
    known = palette()[[*range(150), UNLABELLED]].astype(float)
    snapped = snap(image)
    for pixel, found in zip(image.reshape(-1, 3), snapped.reshape(-1, 3), strict=True):
        distances = ((known - pixel) ** 2).sum(1)
        assert ((found - pixel.astype(float)) ** 2).sum() == distances.min()
    to_classes(snapped)


def test_a_colour_outside_the_palette_is_refused_with_the_remedy():
    image = to_colours(np.zeros((2, 2), np.uint8))
    image[1, 1] = 121, 120, 120
    with pytest.raises(InvalidOption, match=r"1 pixels, the first \[121, 120, 120\].*snap"):
        to_classes(image)
    with pytest.raises(InvalidOption, match="holds 150, expected 0 to 149"):
        to_colours(np.full((2, 2), 150))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("road, route", "road"),
        ("window ", "windowpane"),
        ("windowpane", "windowpane"),
        ("wardrobe, closet, press", "wardrobe"),
        ("tv", "television receiver"),
        ("sky-other-merged", "sky"),
        ("giraffe", "animal"),
        ("couch", "sofa"),
        ("Person", "person"),
    ],
)
def test_labels_of_ade20k_and_coco_models_find_their_class(label, name):
    assert class_names()[class_of(label)] == name


def test_labels_nobody_knows_are_refused_unless_mapped():
    with pytest.raises(InvalidOption, match="'LABEL_7' is neither"):
        class_of("LABEL_7")
    assert class_of("Kfz", {"Kfz": "car"}) == class_of("car")
    assert ade20k.check_labels(["wall", "skis"]).tolist() == [0, UNLABELLED]


def test_every_panoptic_category_of_coco_has_a_row():
    path = DATA / "data" / "coco128" / "panoptic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set SEMAUG_TEST_DATA")
    categories = tuple(row["name"] for row in json.loads(path.read_text())["categories"])
    assert ade20k.coco_panoptic_names() == categories
    assert all(0 <= class_of(name) < 150 or class_of(name) == UNLABELLED for name in categories)
