"""Images as DiffAug's samples: their values, their hand-made views, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.pack import pack_images
from semaug.artifacts.sources import ArraySource, open_source
from semaug.diffaug_core.augment import to_pixels
from semaug.diffaug_core.table_samples import TableSamples
from semaug.pairs_dataset import make_pairs
from semaug.studies.diffaug_images import CentreSquares, ImageSamples, image_samples, samples_of

EVERY = np.arange(6)


@pytest.fixture
def source() -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    return ArraySource(pixels, labels=[0, 1, 0, 1, 0, 1])


def write_photos(folder, sizes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")


def test_clean_samples_are_the_pixels_between_minus_one_and_one(source) -> None:
    samples = image_samples(source)
    assert samples.shape == (3, 16, 16)
    assert samples.notes == ()
    clean = samples.clean(EVERY)
    assert clean.dtype == torch.float32
    for i in EVERY:
        wanted = source.read(i).astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(clean[i].numpy() - wanted).max() < 1e-6
    assert (to_pixels(clean) == np.stack([source.read(i) for i in EVERY])).all()
    assert (samples.fingerprint, len(samples)) == (source.fingerprint, 6)
    assert list(samples.keys) == [source.key(i) for i in EVERY]
    assert [samples.label(i) for i in range(3)] == [0, 1, 0]
    assert samples.class_names == tuple(source.class_names)


def test_hand_made_views_are_those_of_standard_pairs(source) -> None:
    samples = image_samples(source)
    pairs = make_pairs(
        "standard", source, preset="diffaug", size=16, mean=(0.5,) * 3, std=(0.5,) * 3, seed=4
    )  # fmt: skip
    for epoch in (0, 3):
        pairs.set_epoch(epoch)
        for view in (0, 1):
            found = samples.hand(EVERY[::-1].copy(), seed=4, epoch=epoch, view=view)
            assert torch.equal(found, torch.stack([pairs[i][view] for i in EVERY[::-1]]))
    assert not torch.equal(samples.hand(EVERY, seed=4, epoch=0, view=0), samples.hand(EVERY, seed=5, epoch=0, view=0))
    assert torch.equal(
        samples.hand(np.array([2]), seed=4, epoch=1, view=1), samples.hand(EVERY, seed=4, epoch=1, view=1)[2:3]
    )
    again = pickle.loads(pickle.dumps(samples))
    assert torch.equal(again.hand(EVERY, seed=4, epoch=3, view=1), samples.hand(EVERY, seed=4, epoch=3, view=1))
    assert torch.equal(again.clean(EVERY), samples.clean(EVERY))


def test_the_preset_is_the_papers_augmentation_of_images() -> None:
    """Frequencies over many draws: gray a fifth, solarisation a fifth, a flip half of the time (spec S4.3)."""
    left, right = np.full((1, 24, 24, 3), 60, np.uint8), 200
    left[:, :, 12:] = right
    left[..., 0] += 30
    samples = ImageSamples(ArraySource(np.repeat(left, 400, axis=0)), 24)
    recipe = samples.settings()["recipes"][0]
    assert {k: recipe[k] for k in ("jitter_p", "jitter", "gray_p", "solarise_p", "blur_p", "flip_p")} == {
        "jitter_p": 0.8, "jitter": [0.4, 0.4, 0.2, 0.2], "gray_p": 0.2, "solarise_p": 0.2, "blur_p": 0.0, "flip_p": 0.5
    }  # fmt: skip
    assert samples.settings()["recipes"][0] == samples.settings()["recipes"][1]
    views = samples.hand(np.arange(400), seed=0, epoch=0, view=0)
    gray = ((views[:, 0] - views[:, 1]).abs().amax(dim=(1, 2)) < 1e-4).float().mean()
    assert 0.1 < float(gray) < 0.3


def test_images_are_resized_by_the_short_side_and_cut_to_the_centre_square(tmp_path) -> None:
    write_photos(tmp_path / "p", [(40, 20), (20, 48), (24, 24)])
    samples = image_samples(open_source(tmp_path / "p"), 16)
    assert samples.shape == (3, 16, 16)
    assert len(samples.notes) == 1
    assert "the short side is resized to 16, then the centre square taken" in samples.notes[0]
    shape = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(16)])
    for i in range(3):
        image = Image.open(tmp_path / "p" / f"{i}.png")
        wanted = np.asarray(shape(image)).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(samples.clean(np.array([i]))[0].numpy() - wanted).mean() < 0.05


def test_mixed_sizes_are_named_with_the_remedy(tmp_path) -> None:
    write_photos(tmp_path / "p", [(40, 20), (20, 48), (24, 24)])
    with pytest.raises(
        InvalidOption, match=r"of 3 sizes, 20 x 40 to 48 x 20, and DiffAug.*give --size, to which the short side"
    ):
        samples_of(tmp_path / "p")
    write_photos(tmp_path / "q", [(20, 30), (20, 30)])
    with pytest.raises(InvalidOption, match="are 30 x 20 and DiffAug takes squares of one; give --size"):
        samples_of(tmp_path / "q")
    with pytest.raises(InvalidOption, match="size is 4 pixels"):
        samples_of(tmp_path / "q", size=4)


def test_one_door_opens_images_and_tables(tmp_path) -> None:
    scenes = samples_of("scenes:train?items=3", size=24)
    assert isinstance(scenes, ImageSamples)
    assert (len(scenes), scenes.shape) == (3, (3, 24, 24))
    (tmp_path / "cells.csv").write_text("cell,a,b\n" + "".join(f"c{i},{i}.5,{i * i}\n" for i in range(8)))
    table = samples_of(f"{tmp_path / 'cells.csv'}?key=cell")
    assert isinstance(table, TableSamples)
    assert table.shape == (2,)
    with pytest.raises(InvalidOption, match="size 32 is for images"):
        samples_of("sklearn:digits", size=32)
    with pytest.raises(SourceError, match="does not exist"):
        samples_of(tmp_path / "nothing")


def test_prepared_images_are_read_once_and_not_pickled(source) -> None:
    squares = CentreSquares(source, 12)
    first = squares.read(2).copy()
    source.read = lambda index: np.zeros((16, 16, 3), np.uint8)
    assert (squares.read(2) == first).all()
    assert "_kept" not in squares.__getstate__()


def test_a_resized_pack_is_told_from_its_origin(tmp_path) -> None:
    write_photos(tmp_path / "p", [(40, 40), (40, 40)])
    pack_images(open_source(tmp_path / "p"), tmp_path / "small.zarr", size=16)
    whole, small = image_samples(open_source(tmp_path / "p"), 16), image_samples(open_source(tmp_path / "small.zarr"))
    assert whole.fingerprint == small.fingerprint
    assert "pixels" not in whole.settings()
    assert small.settings()["pixels"] == small.pixels != ""
