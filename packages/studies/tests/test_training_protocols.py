"""Fine-tuning, distillation and transfer of a saved encoder on real sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semaug.artifacts.decode import encode_png
from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, SourceError
from semaug.artifacts.sources import open_source
from semaug.artifacts.verify import verify
from semaug.eval.features import embed
from semaug.eval.measures import Measure
from semaug.eval.probes.finetune import RECIPES, Classifier, FinetuneSettings, classification_loss, parameter_groups
from semaug.eval.training_course import Course, train_course
from semaug.ssl_methods import ProjectorSpec, build_encoder, load_card, load_encoder, save_encoder
from semaug.studies.protocols.training import (
    distillation_settings,
    finetune_settings,
    labelled_images,
    run_distil,
    run_finetune,
    semi_finetuned,
)
from semaug.studies.protocols.transfer import TransferSet, run_transfer, transfer_sets

TRAIN, TEST = "scenes:train?items=120", "scenes:test?items=60"
QUICK = FinetuneSettings((0.05,), Course("sgd", epochs=4, batch_size=32))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An encoder of 32 pixels, untrained: what is measured here is the way to the numbers."""
    folder = tmp_path_factory.mktemp("encoder") / "run"
    encoder = build_encoder("small-cnn", input_size=32, projector=ProjectorSpec(out=16), seed=0)
    save_encoder(folder, encoder, method="none", seed=0, steps=0)
    return folder


@pytest.fixture(scope="module")
def patterns(tmp_path_factory) -> tuple[str, str]:
    """Folders of rows, columns and noise, which colour alone does not tell apart."""
    root, rng = tmp_path_factory.mktemp("patterns"), np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 15)):
        for name in ("columns", "noise", "rows"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                signs = rng.choice([-60.0, 60.0], (32, 32, 3))
                signs = {"columns": signs[:1], "rows": signs[:, :1]}.get(name, signs)
                image = np.clip(128 + signs + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                (root / split / name / f"{i}.png").write_bytes(encode_png(image))
    return str(root / "train"), str(root / "test")


def rows(result) -> dict[str, Measure]:
    return {m.metric: m for m in result}


def test_views_are_draws_of_key_and_epoch_alone() -> None:
    source, spec = open_source("scenes:train?items=12"), build_encoder("small-cnn", input_size=32).spec
    one, two = (labelled_images(source, spec, seed=3, workers=w) for w in (0, 3))
    some = np.array([7, 2, 9])
    views = one.views(some, 4)
    assert views.shape == (3, 3, 32, 32)
    assert torch.equal(views[[0, 2]], two.views(np.array([7, 9]), 4))
    assert not torch.equal(views, one.views(some, 5))
    assert torch.equal(views, one.views(some, 4))
    assert torch.equal(one.take(some).views(np.array([2, 0]), 4), views[[2, 0]])
    other = labelled_images(source, spec, seed=4)
    assert not torch.equal(views, other.views(some, 4))


def test_plain_images_are_those_of_the_frozen_protocols() -> None:
    source, encoder = open_source("scenes:test?items=9"), build_encoder("small-cnn", input_size=32)
    images = labelled_images(source, encoder.spec, workers=2)
    seen: list[torch.Tensor] = []

    def keep(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        seen.append(batch)
        return torch.zeros(len(batch), 1), None

    embed(keep, source, input_size=32, mean=encoder.spec.mean, std=encoder.spec.std)
    torch.testing.assert_close(images.plain(np.arange(9)), torch.cat(seen), atol=1e-6, rtol=1e-5)


def test_unreadable_images_are_left_out_and_listed(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    for i, image in enumerate(pixels):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(image) if i != 2 else b"torn")
    images = labelled_images(open_source(tmp_path), build_encoder("small-cnn", input_size=32).spec)
    assert images.keys == ("a/0.png", "b/1.png", "b/3.png")
    assert images.labels.tolist() == [0, 1, 1]
    assert [s.key for s in images.skipped] == ["a/2.png"]
    assert images.notes == ("3 of 3 images are smaller than the encoder's 32 pixels and were enlarged",)
    assert images.views(np.array([2]), 0).shape == (1, 3, 32, 32)


def test_fine_tuning_learns_and_leaves_the_run_as_it_is(run, patterns) -> None:
    before = load_encoder(run)[0].state_dict()
    settings = FinetuneSettings((0.05,), Course("sgd", epochs=8, batch_size=16))
    done = run_finetune(run, *patterns, settings)
    found = rows(done.result)
    assert found["finetune/train_loss_last"].value < 0.6 * found["finetune/train_loss_first"].value
    assert found["finetune/top1"].value > 0.7
    assert found["finetune/top1"].n == 45
    assert found["finetune/top1_std"].reason == "one run"
    barely = run_finetune(run, *patterns, FinetuneSettings((1e-9,), Course(epochs=1, batch_size=60)))
    assert rows(barely.result)["finetune/top1"].value < 0.6
    assert all(torch.equal(before[name], value) for name, value in load_encoder(run)[0].state_dict().items())
    assert not list((run / "eval" / "checkpoints").rglob("*.ckpt"))


def test_a_stopped_fine_tuning_goes_on_where_it_was(run, tmp_path, monkeypatch) -> None:
    from semaug.eval import training_course

    settings = FinetuneSettings((0.01, 0.05), Course("sgd", epochs=2, batch_size=32))
    whole = run_finetune(run, TRAIN, TEST, settings, out=tmp_path / "whole")
    monkeypatch.setattr(training_course.Checkpoints, "due", lambda self: True)
    train, steps = training_course.train_course, []

    def stopping(*args, on_progress, **kwargs):
        def count(event) -> None:
            steps.append(event)
            if len(steps) == 11:
                raise KeyboardInterrupt

        return train(*args, on_progress=count, **kwargs)

    monkeypatch.setattr("semaug.eval.probes.finetune.train_course", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_finetune(run, TRAIN, TEST, settings, out=tmp_path / "parts")
    monkeypatch.setattr("semaug.eval.probes.finetune.train_course", train)
    assert list((tmp_path / "parts" / "checkpoints").rglob("*.ckpt"))
    resumed = run_finetune(run, TRAIN, TEST, settings, out=tmp_path / "parts")
    assert [(m.metric, m.value) for m in resumed.result] == [(m.metric, m.value) for m in whole.result]


def test_few_labels(run, tmp_path) -> None:
    done = semi_finetuned(run, TRAIN, TEST, QUICK, shares=(0.1,), draws=2, out=tmp_path)
    found = rows(done.result)
    assert found["semi/10%/finetuned/top1"].value is not None
    assert found["semi/10%/finetuned/top1_std"].value is not None
    assert 0 < found["semi/10%/labelled"].value < 40


def test_test_images_that_were_trained_on_are_told(run, patterns, tmp_path) -> None:
    settings = FinetuneSettings((0.01,), Course(epochs=1, batch_size=60))
    again = run_finetune(run, patterns[0], patterns[0], settings, out=tmp_path)
    assert "120 of 120 test images lie in the training set: their share of the score is memory" in again.result.warnings
    apart = run_finetune(run, *patterns, settings, out=tmp_path)
    assert not any("lie in the training set" in note for note in apart.result.warnings)


def test_recipes_by_name_and_by_backbone(run, tmp_path) -> None:
    assert finetune_settings(run) == RECIPES["sgd"]
    vit = tmp_path / "vit"
    save_encoder(vit, build_encoder("vit-s16", input_size=32), method="none", seed=0, steps=0)
    assert finetune_settings(vit) == RECIPES["adamw"]
    short = finetune_settings(vit, epochs=10, learning_rates=(1e-3,), layer_decay=0.9, mixup=0.2, batch_size=8)
    assert short.course == Course("adamw", epochs=10, batch_size=8, weight_decay=0.05, warmup=1)
    assert (short.learning_rates, short.layer_decay, short.mixup, short.label_smoothing) == ((1e-3,), 0.9, 0.2, 0.1)
    with pytest.raises(InvalidOption, match="no recipe is called 'lamb'; choose one of sgd, adamw"):
        finetune_settings(run, "lamb")


def test_layers_of_every_kind_of_backbone_are_known() -> None:
    for name, depth in (("small-cnn", 4), ("resnet18", 4), ("mobilenetv2", 19), ("vit-s16", 12)):
        encoder = build_encoder(name, input_size=32)
        groups = parameter_groups(Classifier(encoder.backbone, encoder.feature_dim, 3, 0), RECIPES["adamw"])
        factors = sorted({group["factor"] for group in groups})
        assert factors[-2:] == [0.75, 1.0]
        assert factors[0] == pytest.approx(0.75 ** (depth + (name in ("resnet18", "vit-s16")))), name


@pytest.fixture
def teacher(tmp_path) -> Path:
    """An encoder that tells classes apart, since it was trained on their labels."""
    source, encoder = open_source(TRAIN), build_encoder("small-cnn", input_size=32, seed=5)
    images = labelled_images(source, encoder.spec)
    network, settings = Classifier(encoder.backbone, 128, 10, seed=0).train(), FinetuneSettings((0.05,))
    labels, course = torch.from_numpy(images.labels), Course("sgd", epochs=8, batch_size=16)

    def loss(batch, rows, step):
        return classification_loss(network, batch, labels[rows], settings, 0, step)

    optimizer = course.build([{"params": network.parameters()}], 0.05)
    train_course(network, loss, images.views, len(images), course, optimizer, name="teacher")
    encoder.backbone.load_state_dict(network.backbone.state_dict())
    save_encoder(tmp_path / "teacher", encoder, method="none", seed=5, steps=0)
    return tmp_path / "teacher"


def test_a_student_learns_its_teacher_and_is_a_run_of_its_own(teacher, tmp_path) -> None:
    out = tmp_path / "student"
    settings = distillation_settings(epochs=6, batch_size=32, lr=2e-3)

    def again(**changes):
        return run_distil(
            teacher, TRAIN, TRAIN, TEST, out=out, backbone="small-cnn", settings=changes.pop("settings", settings),
            keep=False, **changes,
        )  # fmt: skip

    done = again()
    found = rows(done.result)
    assert found["distil/train_loss_last"].value < 0.7 * found["distil/train_loss_first"].value
    assert found["distil/student_cka"].value > found["distil/untrained_cka"].value + 0.1
    assert found["distil/student_cosine"].value > 0.5
    card = load_card(out)
    assert (card.method, card.backbone, card.input_size, card.steps) == ("distil", "small-cnn", 32, 24)
    assert card.inputs["teacher"] == load_card(teacher).weights_digest
    assert card.projector_dim == 128
    assert not verify(out).problems
    assert len((out / "metrics.csv").read_text().splitlines()) == 7
    assert not list((out / "checkpoints").rglob("*.ckpt"))
    weights = (out / "encoder.safetensors").read_bytes()
    same = rows(again().result)
    assert all(same[name].value == pytest.approx(found[name].value) for name in found)
    assert (out / "encoder.safetensors").read_bytes() == weights
    with pytest.raises(ArtifactMismatch):
        again(settings=distillation_settings(epochs=2, batch_size=32, lr=2e-3))


def test_transfer_over_several_sets_and_an_absent_one(run, tmp_path) -> None:
    sets = (
        TransferSet("scenes", TRAIN, TEST),
        TransferSet("gone", "cifar10:train?root=/nowhere", "cifar10:test?root=/nowhere"),
    )
    result = run_transfer(run, sets, keep=False)
    found = rows(result)
    assert found["transfer/scenes/linear_top1"].value > 0.1
    assert found["transfer/scenes/linear_top1"].n == 60
    assert found["transfer/gone/linear_top1"].value is None
    assert "/nowhere is not a folder" in found["transfer/gone/knn_top1"].reason
    assert found["transfer/mean/linear_top1"].reason == "1 of 2 sets have no value"
    assert [s.key for s in result.skipped] == ["gone"]
    alone = rows(run_transfer(run, sets[:1], keep=False))
    assert alone["transfer/mean/linear_top1"].value == alone["transfer/scenes/linear_top1"].value


def test_sets_by_name(tmp_path) -> None:
    found = transfer_sets(("dtd?partition=2", "cifar10"), [("mine", "a", "b")], root=tmp_path)
    assert [s.name for s in found] == ["dtd-partition2", "cifar10", "mine"]
    assert found[0].train == f"dtd:trainval?partition=2&root={tmp_path}"
    assert found[1].test == f"cifar10:test?root={tmp_path}"
    assert transfer_sets(["pets?root=/other"], root=tmp_path)[0].test == "pets:test?root=/other"
    with pytest.raises(InvalidOption, match="no data set to transfer to"):
        transfer_sets(())
    with pytest.raises(InvalidOption, match="'cifar10' is given twice"):
        transfer_sets(("cifar10", "cifar10?root=/b"))
    with pytest.raises(SourceError, match="no data set is called 'mnist'"):
        transfer_sets(("mnist",))


def test_what_is_refused(run, tmp_path) -> None:
    table = tmp_path / "table"
    save_encoder(table, build_encoder("mlp", input_features=5), method="none", seed=0, steps=0)
    with pytest.raises(InvalidOption, match="backbone 'mlp' reads rows of a table"):
        run_finetune(table, TRAIN, TEST, QUICK)
    with pytest.raises(InvalidOption, match="0 repeats"):
        run_finetune(run, TRAIN, TEST, QUICK, repeats=0)
    with pytest.raises(InvalidOption, match="backbone 'resnet19' is not known"):
        run_distil(run, TRAIN, TRAIN, TEST, out=tmp_path / "student", backbone="resnet19")
