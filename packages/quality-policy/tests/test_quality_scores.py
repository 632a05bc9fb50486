"""The fused pass against an integer numpy reference, an OpenCV chain and closed forms (spec S1.1)."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semaug.quality_policy import InvalidImage, batch_statistics, histogram_entropy, image_statistics, pixel_sums
from semaug.quality_policy.scoring import RawStatistics, Scoring

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 50), (50, 1), (3, 3), (7, 9), (8, 8), (33, 4), (5, 1030), (4, 2049)]


def reference_gray(image):
    red, green, blue = (image[..., i].astype(np.int64) for i in range(3))
    return (4899 * red + 9617 * green + 1868 * blue + 8192) >> 14


def reference_laplacian(gray):
    modes = ["reflect" if n > 1 else "edge" for n in gray.shape]
    padded = np.pad(np.pad(gray, ((1, 1), (0, 0)), modes[0]), ((0, 0), (1, 1)), modes[1])
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * gray


def reference_entropy(histogram):
    share = histogram[histogram > 0] / histogram.sum()
    return float(-(share * np.log2(share)).sum())


def gray_image(gray):
    return np.repeat(np.asarray(gray, np.uint8)[..., None], 3, axis=2)


def check_against_reference(image):
    gray = reference_gray(image)
    laplacian = reference_laplacian(gray)
    histogram = np.bincount(gray.ravel(), minlength=256)
    sums, found = pixel_sums(image), image_statistics(image)
    assert sums.laplacian_sum == laplacian.sum()
    assert sums.laplacian_square_sum == (laplacian**2).sum()
    np.testing.assert_array_equal(sums.histogram, histogram)
    assert (found.height, found.width) == gray.shape
    assert found.laplacian_variance == pytest.approx(laplacian.var(), rel=1e-9, abs=1e-9)
    assert found.entropy == pytest.approx(reference_entropy(histogram), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_reference_on_noise(size):
    check_against_reference(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 70), st.just(3))))
@settings(max_examples=60, deadline=None)
def test_equals_reference_on_any_image(image):
    check_against_reference(image)


@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)))
@settings(max_examples=300, deadline=None)
def test_gray_is_the_14_bit_formula_for_any_colour(colour):
    image = np.array(colour, np.uint8).reshape(1, 1, 3)
    assert np.flatnonzero(pixel_sums(image).histogram).tolist() == [int(reference_gray(image)[0, 0])]


def test_extreme_laplacians_do_not_overflow():
    board = 255 * (np.indices((64, 4099)).sum(axis=0) % 2)
    check_against_reference(gray_image(board))
    sums = pixel_sums(gray_image(board))
    assert sums.laplacian_square_sum == 1020**2 * board.size


def test_non_contiguous_and_transposed_images():
    image = np.random.default_rng(1).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    check_against_reference(image[::2, ::-1])
    check_against_reference(image.transpose(1, 0, 2))


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_image_has_neither_clarity_nor_diversity(value):
    score = Scoring().score(image_statistics(gray_image(np.full((40, 50), value))))
    assert score.clarity == 0.0
    assert score.diversity == 0.0


def test_checkerboard_has_one_bit():
    board = gray_image(255 * (np.indices((32, 32)).sum(axis=0) % 2))
    assert image_statistics(board).entropy == 1.0


def test_uniform_levels_have_eight_bits():
    assert image_statistics(gray_image(np.tile(np.arange(256), (4, 1)))).entropy == 8.0


def test_linear_ramp_is_flat_inside():
    ramp = gray_image(np.tile(3 * np.arange(60), (20, 1)))
    sums = pixel_sums(ramp)
    # second differences vanish but at the two reflected ends, +-2 slopes in each of 20 rows
    assert sums.laplacian_square_sum == 20 * 2 * 6**2
    assert sums.laplacian_sum == 0


def test_impulse_response():
    impulse = np.zeros((9, 9))
    impulse[4, 4] = 200
    sums = pixel_sums(gray_image(impulse))
    assert sums.laplacian_sum == 0
    assert sums.laplacian_square_sum == 200**2 * (16 + 4)


@given(arrays(np.uint8, (12, 15), elements=st.integers(0, 50)), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_contrast_scales_the_variance_by_its_square(gray, factor):
    one = image_statistics(gray_image(gray)).laplacian_variance
    many = image_statistics(gray_image(factor * gray.astype(int))).laplacian_variance
    assert many == pytest.approx(factor**2 * one, rel=1e-12)


def test_blur_lowers_clarity():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(2).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    blurred = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.5, 1.0, 2.0, 4.0))]
    variances = [image_statistics(each).laplacian_variance for each in blurred]
    assert all(sharper > softer for sharper, softer in pairwise(variances))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
    ],
)
def test_other_arrays_are_refused_in_one_line(image):
    with pytest.raises(InvalidImage, match="expected") as caught:
        image_statistics(image)
    assert "\n" not in str(caught.value)


def test_batches_equal_single_images_for_any_number_of_threads():
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(9)]
    singles = [image_statistics(image) for image in images]
    assert batch_statistics(images, threads=1) == singles
    assert batch_statistics(images, threads=4) == singles
    assert batch_statistics([], threads=4) == []


def test_a_process_can_fork_after_a_threaded_batch():
    """Data loaders fork; an OpenMP region before that would kill the child."""
    images = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(8)]
    batch_statistics(images, threads=2)
    assert _run_forked(lambda: batch_statistics(images[:1], threads=1) is not None)


def _run_forked(action):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what this test is about
        child = os.fork()
    if child == 0:
        os._exit(0 if action() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_histogram_entropy_of_a_single_level_is_zero():
    assert histogram_entropy(np.array([0, 7, 0])) == 0.0


def photographs():
    root = os.environ.get("SEMAUG_TEST_DATA") or Path(__file__).resolve().parents[4] / "shared"
    folder = Path(root) / "data" / "imagenet100"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}; set SEMAUG_TEST_DATA")
    from semaug.artifacts.sources import open_source

    source = open_source(folder)
    return [source.read(i) for i in range(len(source))]


def test_photographs_against_opencv_and_the_calibration():
    cv2 = pytest.importorskip("cv2")
    images = photographs()
    rows = batch_statistics(images)
    for image, row in zip(images[::5], rows[::5], strict=True):
        gray = reference_gray(image).astype(np.uint8)
        _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S, ksize=1))
        histogram = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel().astype(np.float64)
        assert row.laplacian_variance == pytest.approx(float(deviation[0, 0]) ** 2, rel=1e-9)
        assert row.entropy == pytest.approx(reference_entropy(histogram), abs=1e-9)
    quality = Scoring().components(RawStatistics.of(rows)).quality
    low, median, high = np.quantile(quality, [0.1, 0.5, 0.9])
    # 200 other ImageNet photographs gave 0.729, 0.866, 0.940
    assert low == pytest.approx(0.729, abs=0.05)
    assert median == pytest.approx(0.866, abs=0.02)
    assert high == pytest.approx(0.940, abs=0.02)
