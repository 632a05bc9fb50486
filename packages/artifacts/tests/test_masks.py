import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.masks import decode_mask, encode_mask, mask_area, mask_box
from semaug.artifacts.schemas import Rle

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 70), st.integers(1, 70)))


@given(MASKS)
@settings(max_examples=100, deadline=None)
def test_round_trip(mask):
    rle = encode_mask(mask)
    decoded = decode_mask(rle)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask)
    assert mask_area(rle) == mask.sum()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools 2.0.11 under NumPy 2
@pytest.mark.parametrize("seed", range(6))
def test_decoding_equals_pycocotools(seed):
    """Long runs, with differences of several characters and both signs."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((700, 900), bool)
    for _ in range(8):
        y, x = rng.integers(0, (600, 800))
        mask[y : y + rng.integers(1, 400), x : x + rng.integers(1, 500)] ^= True
    rle = encode_mask(mask)
    theirs = coco_mask.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)
    assert np.array_equal(decode_mask(rle), theirs)


def test_box_is_tight_with_an_exclusive_end():
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert mask_box(encode_mask(mask)).tolist() == [3, 2, 9, 5]
    assert mask_box(encode_mask(np.zeros((4, 4), bool))).tolist() == [0, 0, 0, 0]


def test_a_code_of_another_size_is_refused():
    with pytest.raises(ArtifactError, match="5 x 5 has 16"):
        decode_mask(Rle((5, 5), encode_mask(np.eye(4, dtype=bool)).counts))
