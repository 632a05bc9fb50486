"""DiffAug on images: the same training with a U-Net, whose layers draw numbers of their own."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from semaug.artifacts import draws
from semaug.artifacts.files import hash_file
from semaug.diffaug_core import DiffAugSettings, load_diffaug, train_diffaug
from semaug.diffaug_core.steps import Steps

SETTINGS = DiffAugSettings(
    encoder={"backbone": "small-cnn", "head": (8,)},
    generator={"channels": (8, 16), "attention": (), "dropout": 0.3},
    timesteps=10,
    sampler_steps=2,
    warmup_epochs=1,
    generator_epochs=1,
    alpha=0.5,
)


@dataclass(frozen=True)
class Stripes:
    """Images in [-1, 1], half of them striped along each side; by hand they are brightened."""

    count: int = 8
    shape: tuple[int, ...] = (3, 16, 16)
    fingerprint: str = "stripes"

    @property
    def keys(self):
        return [str(i) for i in range(self.count)]

    def __len__(self):
        return self.count

    def clean(self, indices):
        stripes = torch.sin(torch.arange(16) * 1.5).expand(3, 16, 16)
        return torch.stack([stripes if i % 2 else stripes.mT for i in indices])

    def hand(self, indices, *, seed, epoch, view):
        source = draws.generator(seed, "brighten", epoch, str(view))
        light = torch.from_numpy(source.uniform(-0.2, 0.2, self.count).astype(np.float32))[torch.from_numpy(indices)]
        return (self.clean(indices) + light[:, None, None, None]).clamp(-1, 1)

    def label(self, index):
        return index % 2


class Killed(Exception):
    pass


def die(event):
    if (event.stage, event.done) == ("diffaug", 9):
        raise Killed


def test_a_run_on_images_resumes_to_the_same_bits(tmp_path):
    course = {"epochs": 5, "batch_size": 4, "checkpoint_every": 4}
    train_diffaug(Stripes(), tmp_path / "whole", SETTINGS, **course)
    with pytest.raises(Killed):
        train_diffaug(Stripes(), tmp_path / "killed", SETTINGS, **course, on_progress=die)
    train_diffaug(Stripes(), tmp_path / "killed", SETTINGS, **course)
    for name in ("encoder.safetensors", "generator.safetensors"):
        assert hash_file(tmp_path / "whole" / name) == hash_file(tmp_path / "killed" / name)
    run = load_diffaug(tmp_path / "whole")
    assert (run.card.input_size, run.generator.shape) == (16, (3, 16, 16))
    assert run.encoder.project(run.encoder(Stripes().clean(np.arange(2)))).shape == (2, 2)


def test_images_are_contrasted_by_hand_made_views_and_generated_within_bounds():
    steps = Steps(Stripes(), SETTINGS, encoder_steps=10, batch_size=4)
    moment = next(m for m in map(steps.plan.at, range(steps.plan.total)) if m.refresh == 0)
    bank = steps.refresh(moment)
    assert float(bank.views.abs().max()) <= 1
    views = steps.views.draw(np.arange(4), moment, bank)
    by_hand = Stripes().hand(np.arange(4), seed=0, epoch=moment.epoch, view=0)
    assert torch.equal(views.first, by_hand)
