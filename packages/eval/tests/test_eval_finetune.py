"""Fine-tuning: the loop, its resumption, rates by depth, the losses against float64, and what it is worth."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from semaug.artifacts.draws import draw_key, uniforms
from semaug.eval.errors import EvaluationError, LabelsMissing, OneClass
from semaug.eval.labelled_images import LabelledImages, image_pair
from semaug.eval.probes.finetune import (
    RECIPES,
    Classifier,
    FinetuneSettings,
    classification_loss,
    evaluate_finetune,
    evaluate_semi_finetune,
    layer_depths,
    parameter_groups,
)
from semaug.eval.training_course import Checkpoints, Course, Diverged, epoch_batches, train_course

SIDE, WIDTH = 12, 16
NAMES = ("stripes", "columns", "noise")


class Patterns:
    """Images of three classes that no mean colour tells apart: rows, columns, and noise of one strength."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.arange(n) % 3
        signs = rng.choice([-1.0, 1.0], (n, 3, SIDE, SIDE))
        signs[self.labels == 0] = signs[self.labels == 0][:, :, :, :1]
        signs[self.labels == 1] = signs[self.labels == 1][:, :, :1, :]
        self.pixels = torch.from_numpy(signs + rng.normal(0, 0.3, signs.shape)).float()
        self.read: list[int] = []

    def views(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """Rolled and mirrored by draws of (row, epoch) alone."""
        shown = []
        for row in rows:
            u = uniforms(draw_key(0, "views", epoch, str(row)), 2)
            image = torch.roll(self.pixels[row], int(u[0] * SIDE), 2)
            shown.append(image.flip(2) if u[1] < 0.5 else image)
        return torch.stack(shown)

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        self.read += rows.tolist()
        return self.pixels[rows]

    def images(self, names: tuple[str, ...] = NAMES) -> LabelledImages:
        keys = tuple(f"{i}.png" for i in range(len(self.labels)))
        return LabelledImages(self.labels.astype(np.int64), keys, names, self.views, self.plain)


def small_network(dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, WIDTH, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


QUICK = FinetuneSettings((0.1,), Course("sgd", epochs=6, batch_size=16))


def test_fine_tuning_learns_what_the_frozen_start_does_not_know() -> None:
    train, test, network = Patterns(120, 0), Patterns(90, 1), small_network()
    before = copy.deepcopy(network.state_dict())
    result = evaluate_finetune(network, WIDTH, train.images(), test.images(), QUICK, seeds=(0, 1))
    rows = {m.metric: m for m in result}
    assert rows["finetune/train_loss_last"].value < 0.6 * rows["finetune/train_loss_first"].value
    assert rows["finetune/top1"].value > 0.75
    assert rows["finetune/mean_per_class"].value == pytest.approx(rows["finetune/top1"].value)  # classes are balanced
    assert rows["finetune/top1_std"].value is not None
    assert rows["finetune/top5"].reason == "five classes or fewer"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    untrained = evaluate_finetune(
        network, WIDTH, train.images(), test.images(), FinetuneSettings((1e-9,), Course(epochs=1, batch_size=60))
    )
    assert untrained.runs[0].top1 < 0.6


def test_the_test_set_is_read_once_and_the_rate_is_chosen_without_it() -> None:
    train, test = Patterns(60, 0), Patterns(30, 1)
    settings = FinetuneSettings((1e-6, 0.1), Course("sgd", epochs=5, batch_size=12))
    result = evaluate_finetune(small_network(), WIDTH, train.images(), test.images(), settings)
    assert sorted(test.read) == list(range(30))
    scores = result.runs[0].selection_accuracy
    assert result.runs[0].chosen == 0.1
    assert scores[0.1] > scores[1e-6]
    assert len(set(train.read)) == 12  # a fifth of each class, for each rate
    assert "is at the end of" in result.warnings[0]


def test_rates_that_diverge_are_told_and_not_chosen() -> None:
    train, test = Patterns(60, 0), Patterns(30, 1)
    settings = FinetuneSettings((0.05, 1e30), Course("sgd", epochs=2, batch_size=12))
    result = evaluate_finetune(small_network(), WIDTH, train.images(), test.images(), settings)
    assert result.runs[0].selection_accuracy[1e30] is None
    assert result.runs[0].chosen == 0.05
    assert any("diverged at the learning rates 1e+30" in note for note in result.warnings)
    with pytest.raises(Diverged, match="every learning rate of"):
        evaluate_finetune(
            small_network(), WIDTH, train.images(), test.images(), FinetuneSettings((1e30, 1e31), settings.course)
        )


class Stop(Exception):
    pass


@pytest.mark.parametrize("stops", [(1,), (5, 17)], ids=["at once", "twice"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stopped_course_ends_with_the_same_weights(tmp_path, stops, optimizer) -> None:
    patterns = Patterns(50, 0)
    course = Course(optimizer, epochs=3, batch_size=8, warmup=1, clip=1.0)

    def run(checkpoints: Checkpoints | None, stop: int | None) -> tuple[dict[str, torch.Tensor], tuple[float, ...]]:
        network = Classifier(small_network(dropout=0.5), WIDTH, 3, seed=0).train()
        labels = torch.from_numpy(patterns.labels)

        def loss(images: torch.Tensor, rows: np.ndarray, step: int) -> torch.Tensor:
            if step == stop:
                raise Stop
            return classification_loss(network, images, labels[rows], FinetuneSettings((1.0,), mixup=0.5), 0, step)

        made = course.build([{"params": network.parameters()}], 0.01)
        losses = train_course(network, loss, patterns.views, 50, course, made, name="x", checkpoints=checkpoints)
        return network.state_dict(), losses

    whole, whole_losses = run(None, None)
    for stop in stops:
        with pytest.raises(Stop):
            run(Checkpoints(tmp_path, {"a": 1}, every=0), stop)
    parts, losses = run(Checkpoints(tmp_path, {"a": 1}, every=0), None)
    assert losses == whole_losses
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    again, _ = run(Checkpoints(tmp_path, {"a": 1}), 0)  # done: no step is taken
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(Stop):
        run(Checkpoints(tmp_path, {"a": 2}), 0)  # other settings begin anew
    kept = Checkpoints(tmp_path, {"a": 1})
    kept.path("x").write_bytes(b"damaged")
    with pytest.raises(Stop):
        run(kept, 0)
    kept.clear()
    assert not kept.path("x").exists()


def test_a_stopped_evaluation_goes_on(tmp_path) -> None:
    train, test = Patterns(60, 0), Patterns(30, 1)
    settings = FinetuneSettings((0.01, 0.1), Course("sgd", epochs=2, batch_size=12))
    whole = evaluate_finetune(small_network(), WIDTH, train.images(), test.images(), settings)
    broken = Patterns(30, 1)
    broken.plain = lambda rows: (_ for _ in ()).throw(Stop)
    with pytest.raises(Stop):
        evaluate_finetune(
            small_network(), WIDTH, train.images(), broken.images(), settings, checkpoints=Checkpoints(tmp_path)
        )
    train.views = lambda rows, epoch: (_ for _ in ()).throw(AssertionError("trained again"))
    for _ in range(2):
        found = evaluate_finetune(
            small_network(), WIDTH, train.images(), test.images(), settings, checkpoints=Checkpoints(tmp_path)
        )
        assert [(m.metric, m.value) for m in found] == [(m.metric, m.value) for m in whole]
    assert len(test.read) == 2 * 30  # the result itself is kept


def test_mixed_and_smoothed_loss_is_that_of_the_equations() -> None:
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double(), torch.randn(5, 3, 2, 2).double()
    labels = torch.tensor([0, 3, 1, 1, 2])
    settings = FinetuneSettings((1.0,), label_smoothing=0.1, mixup=0.4)
    found = float(classification_loss(network, images, labels, settings, seed=3, step=7).detach())
    from semaug.artifacts.draws import generator

    rng = generator(3, "finetune-mixup", epoch=7)
    share, other = rng.beta(0.4, 0.4), rng.permutation(5)
    x = images.numpy().reshape(5, 12)
    weight, bias = (p.detach().numpy() for p in network[1].parameters())
    logits = (share * x + (1 - share) * x[other]) @ weight.T + bias
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    one_hot = np.eye(4)[labels.numpy()] * 0.9 + 0.1 / 4
    target = share * one_hot + (1 - share) * one_hot[other]
    assert found == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-12)


@given(n=st.integers(2, 200), size=st.integers(2, 64), epoch=st.integers(0, 3))
def test_an_epoch_is_every_row_once_in_batches_of_nearly_one_size(n: int, size: int, epoch: int) -> None:
    batches = epoch_batches(n, Course(batch_size=size), 0, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_the_rate_follows_warm_up_and_cosine() -> None:
    course = Course(epochs=10, batch_size=10, warmup=2)
    factors = [course.factor(step, 30) for step in range(30)]
    assert factors[:6] == pytest.approx([(i + 1) / 6 for i in range(6)])
    expected = [0.5 * (1 + math.cos(math.pi * (i - 6) / 24)) for i in range(6, 30)]
    assert factors[6:] == pytest.approx(expected)


VIT = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
VIT += [f"blocks.{i}.{part}" for i in range(12) for part in ("norm1.weight", "attn.qkv.weight")] + ["norm.weight"]
RESNET = ["conv1.weight", "bn1.weight", *(f"layer{i}.{j}.conv1.weight" for i in range(1, 5) for j in range(2))]


def test_depths_of_known_networks() -> None:
    depths = layer_depths(VIT)
    assert [depths[name] for name in VIT[:4]] == [0] * 4
    assert [depths[f"blocks.{i}.norm1.weight"] for i in (0, 1, 10, 11)] == [1, 2, 11, 12]
    assert depths["norm.weight"] == 12
    assert [layer_depths(RESNET)[name] for name in RESNET] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert layer_depths(["network.blocks.0.w", "network.norm.w"]) == {"network.blocks.0.w": 1, "network.norm.w": 1}
    assert set(layer_depths([name for name, _ in small_network().named_parameters()]).values()) == {1, 2}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_parameter_is_trained_once_at_the_rate_of_its_depth(optimizer) -> None:
    network = Classifier(small_network(), WIDTH, 3, seed=0)
    settings = FinetuneSettings((1.0,), Course(optimizer, weight_decay=0.05), layer_decay=0.5, head_factor=10.0)
    groups = parameter_groups(network, settings)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in network.parameters())
    optimizer_made = settings.course.build(groups, 0.2)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer_made.param_groups for p in g["params"]}
    first, second = network.backbone[0], network.backbone[1]
    whole = 0.05 if optimizer == "sgd" else 0.0
    assert rates[id(first[0].weight)] == (0.2 * 0.25, 0.05)
    assert rates[id(second[0].weight)] == (0.2 * 0.5, 0.05)
    assert rates[id(second[1].weight)] == (0.2 * 0.5, whole)
    assert rates[id(network.head.weight)] == (0.2 * 10, 0.05)
    assert rates[id(network.head.bias)] == (0.2 * 10, whole)


def test_layers_without_numbers_cannot_decay() -> None:
    backbone = nn.ModuleDict({"only": nn.Linear(4, 4)})
    with pytest.raises(EvaluationError, match=r"a layer decay of 0.75 for ModuleDict, whose layers are not numbered"):
        parameter_groups(Classifier(backbone, 4, 3, 0), RECIPES["adamw"])


def test_classes_are_matched_by_name_and_unlabelled_images_left_out() -> None:
    train, test = Patterns(12, 0), Patterns(9, 1)
    turned = test.images(("noise", "columns", "stripes"))
    labels = turned.labels.copy()
    labels[4] = -1
    pair = image_pair(train.images(), LabelledImages(labels, turned.keys, turned.class_names, test.views, test.plain))
    assert pair.class_names == NAMES
    assert pair.test.labels.tolist() == [2, 1, 0, 2, 0, 2, 1, 0]
    assert torch.equal(pair.test.plain(np.array([4, 5])), test.pixels[[5, 6]])
    assert torch.equal(pair.test.views(np.array([4]), 2), test.views(np.array([5]), 2))


def test_what_is_refused() -> None:
    train, test = Patterns(12, 0), Patterns(9, 1)
    one = LabelledImages(np.zeros(12, np.int64), train.images().keys, NAMES, train.views, train.plain)
    bare = LabelledImages(np.full(12, -1), train.images().keys, NAMES, train.views, train.plain)
    with pytest.raises(OneClass):
        evaluate_finetune(small_network(), WIDTH, one, test.images(), QUICK)
    with pytest.raises(LabelsMissing):
        evaluate_finetune(small_network(), WIDTH, bare, test.images(), QUICK)
    for wrong in (
        lambda: FinetuneSettings(()),
        lambda: FinetuneSettings((0.1, -1.0)),
        lambda: FinetuneSettings((0.1,), layer_decay=0.0),
        lambda: FinetuneSettings((0.1,), label_smoothing=1.0),
        lambda: Course("adam"),  # type: ignore[arg-type]
        lambda: Course(batch_size=1),
        lambda: Course(epochs=2, warmup=3),
        lambda: Course(weight_decay=-1.0),
        lambda: LabelledImages(np.zeros(2, np.int64), ("a",), NAMES, train.views, train.plain),
    ):
        with pytest.raises(EvaluationError):
            wrong()


def test_few_labels_are_those_of_the_frozen_form() -> None:
    from semaug.eval.subsets import stratified_subset

    train, test = Patterns(120, 0), Patterns(30, 1)
    seen: set[int] = set()
    images = train.images()
    watched = LabelledImages(
        images.labels, images.keys, NAMES, lambda r, e: (seen.update(r.tolist()), train.views(r, e))[1], train.plain
    )
    settings = FinetuneSettings((0.05,), Course("sgd", epochs=2, batch_size=8))
    result = evaluate_semi_finetune(
        small_network(), WIDTH, watched, test.images(), settings, shares=(0.1,), draws=2, seed=5
    )
    expected = {i for draw in range(2) for i in stratified_subset(images.labels, 0.1, 5, draw=draw).tolist()}
    assert seen == expected
    rows = {m.metric: m.value for m in result}
    assert rows["semi/10%/labelled"] == 12
    assert rows["semi/10%/finetuned/top1_std"] is not None


def test_one_label_a_class_selects_nothing_and_says_so() -> None:
    train, test = Patterns(30, 0), Patterns(30, 1)
    settings = FinetuneSettings((0.01, 0.02, 0.03), Course("sgd", epochs=1, batch_size=8))
    result = evaluate_semi_finetune(
        small_network(), WIDTH, train.images(), test.images(), settings, shares=(0.01,), draws=1
    )
    assert result.shares[0][1] == 3
    assert result.shares[0][2].runs[0].chosen == 0.02
    assert any("every class has one image, so the learning rate is 0.02" in note for note in result.warnings)
    assert any("one image each of 3 classes, which is more than the share" in note for note in result.warnings)
