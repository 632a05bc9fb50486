"""BYOL, SimSiam, Barlow Twins, VICReg and DLME as methods: one step's parts; two ranks; resuming; learning."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import METHODS, OptimizerSettings, ProjectorSpec, build_encoder
from semaug.ssl_methods.heads import build_predictor
from semaug.ssl_methods.losses import barlow_twins_loss, byol_loss, simsiam_loss, vicreg_loss
from semaug.ssl_methods.losses.dlme import Similarity, positive_pairs, soft_contrastive_loss
from semaug.ssl_methods.losses.kernels import KERNELS
from semaug.ssl_methods.methods import BYOL, DLME, SimSiam
from semaug.ssl_methods.optimizers import build_optimizer
from semaug.ssl_methods.testing import resume_differences, train_scenes, two_ranks

NAMES = ("byol", "simsiam", "barlow-twins", "vicreg", "dlme")
OPTIONS = {"byol": {"momentum": 0.8, "final_momentum": 0.9}}
SIMSIAM_NORMS = {"last_batch_norm": True, "last_affine": False}


def build(name, seed=0, **options):
    norms = SIMSIAM_NORMS if name == "simsiam" else {}
    head = ProjectorSpec(hidden=32, out=16, batch_norm=True, **norms)
    encoder = build_encoder("small-cnn", input_size=16, projector=head, seed=seed)
    return METHODS[name].assemble(encoder, **({"seed": seed} | OPTIONS.get(name, {}) | options))


def views(n=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def freeze_norms(method):
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return method


def step(method, batch, number=0, steps=10):
    settings = OptimizerSettings("sgd", lr=0.1)
    optimizer = build_optimizer(method, settings, method.parameter_groups(settings))
    method.before_forward(number, steps)
    loss = method(batch)["loss"]
    loss.backward()
    method.before_update(number, steps)
    optimizer.step()
    method.after_step(number, steps)
    return loss.detach()


@torch.no_grad()
def expected_loss(method, batch):
    """The method's loss put together from copies of its parts."""
    method = copy.deepcopy(method)
    encoder = method.encoder
    if method.name == "dlme":
        y = encoder(torch.cat(batch))
        positive = positive_pairs(torch.arange(len(batch[0])).repeat(2))
        return soft_contrastive_loss(y, encoder.project(y), positive, method.similarity)
    z = [encoder.project(encoder(v)) for v in batch]
    if method.name == "byol":
        return byol_loss(*map(method.predictor, z), *(method.teacher.project(method.teacher(v)) for v in batch))
    if method.name == "simsiam":
        return simsiam_loss(*map(method.predictor, z), *z)
    return {"barlow-twins": barlow_twins_loss, "vicreg": vicreg_loss}[method.name](*z)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_papers_over_the_parts(name):
    method, batch = build(name), views()
    expected = expected_loss(method, batch)
    torch.testing.assert_close(step(method, batch), expected)
    assert method.result is method.encoder


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_gets_a_gradient(name):
    method = build(name)
    method(views())["loss"].backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.abs().sum() > 0 for p in method.encoder.backbone.parameters() if p.ndim > 1)


def test_byol_target_starts_equal_and_follows_by_tau():
    method = build("byol")
    start = [p.detach().clone() for p in method.encoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, method.teacher.parameters(), strict=True))
    step(method, views(), number=5)
    assert method.tau(5, 10) == pytest.approx(0.85)  # half way from 0.8 to 0.9
    assert not all(torch.equal(a, b) for a, b in zip(start, method.encoder.parameters(), strict=True))
    for before, slow, fast in zip(start, method.teacher.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(slow, 0.85 * before + 0.15 * fast, rtol=1e-5, atol=1e-6)
        assert not slow.requires_grad
        assert slow.grad is None


def test_byol_target_has_batch_statistics_of_its_own():
    method = build("byol")
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.mul_(1.7)
    step(method, views())
    online, target = (net.backbone[0][1] for net in (method.encoder, method.teacher))
    assert int(target.num_batches_tracked) == 2
    assert not torch.allclose(online.running_var, target.running_var)


def test_simsiam_stops_the_gradient_through_its_targets():
    """With constant targets in place of the projections, the gradient is the same."""
    method, batch = build("simsiam"), views()
    twin = copy.deepcopy(method)
    method(batch)["loss"].backward()
    z = [twin.encoder.project(twin.encoder(v)) for v in batch]
    constant = [torch.tensor(t.tolist()) for t in z]
    simsiam_loss(*map(twin.predictor, z), *constant).backward()
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_simsiam_keeps_its_predictors_rate_and_heads_of_the_paper():
    method = SimSiam.assemble(build_encoder("small-cnn", input_size=16, projector=SimSiam.default_projector))
    groups = method.parameter_groups(OptimizerSettings("sgd", exclude_norms=True))
    held = [id(p) for g in groups if g.get("constant_lr") for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in method.predictor.parameters())
    assert sum(len(g["params"]) for g in groups) == len(list(method.parameters()))
    kinds = [type(m).__name__ for m in method.encoder.projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert not method.encoder.projector[-1].affine
    assert method.predictor.text == "2048-512-2048 relu batch_norm"


def test_simsiam_spread_tells_collapse():
    method, batch = build("simsiam"), views(64)
    assert method(batch)["spread"].item() > 0.5
    with torch.no_grad():
        method.encoder.projector[-2].weight.zero_()
    assert method(batch)["spread"].item() < 0.01


def test_vicreg_logs_its_terms():
    scalars = build("vicreg", invariance=3.0, variance=5.0, covariance=7.0)(views())
    total = 3 * scalars["invariance"] + 5 * scalars["variance"] + 7 * scalars["covariance"]
    torch.testing.assert_close(scalars["loss"], total)


@pytest.mark.parametrize("detach", [False, True])
def test_dlme_reaches_the_features_through_p_unless_detached(detach):
    """With the embedding held constant only P can carry a gradient."""
    method = build("dlme", detach_p=detach, nu_y=3.0)
    method.encoder.projector = nn.Sequential(nn.Linear(128, 2)).requires_grad_(False)
    nn.init.zeros_(method.encoder.projector[0].weight)
    method(views())["loss"].backward()
    slope = method.encoder.backbone[0][0].weight.grad
    assert bool(slope.any()) is not detach


def test_dlme_reports_the_saturated_share():
    method = build("dlme", kernel="peak1", beta=1.0)
    image = torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1)
    scalars = method.eval()([image, image])  # eight equal rows: P is e on the 8 pairs of H, one elsewhere
    assert scalars["saturated"].item() == pytest.approx(8 / 56)


def model_on_rank(rank, world, name):
    """Loss and gradients in float64 of this rank's share, batch norm by its running statistics."""
    options = {"nu_y": 3.0, "nu_z": 1.0} if name == "dlme" else {}
    method = freeze_norms(build(name, **options).double())
    method.before_forward(0, 10)
    loss = method([v.chunk(world)[rank] for v in views(dtype=torch.float64)])["loss"]
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


def models_on_rank(rank, world):
    return {name: model_on_rank(rank, world, name) for name in NAMES}


def test_two_ranks_equal_one_process_for_whole_models():
    ranks = two_ranks(models_on_rank)
    for name, (loss, gradients) in models_on_rank(0, 1).items():
        found = [r[name] for r in ranks]
        torch.testing.assert_close(torch.stack([r[0] for r in found]).mean(), loss, rtol=1e-12, atol=1e-12, msg=name)
        assert any(bool(g.any()) for g in gradients.values())
        for parameter, gradient in gradients.items():
            shared = torch.stack([r[1][parameter] for r in found]).mean(0)
            torch.testing.assert_close(shared, gradient, rtol=1e-9, atol=1e-12, msg=f"{name} {parameter}")


@pytest.mark.parametrize("name", NAMES)
def test_resumes_to_the_same_bits(name, tmp_path):
    assert resume_differences(partial(build, name), tmp_path, stop=4, steps=7) == []


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "ranks"), [(2, 1), (0, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_resumes_with_workers_and_ranks(name, workers, ranks, tmp_path):
    assert resume_differences(partial(build, name), tmp_path, stop=5, steps=8, workers=workers, ranks=ranks) == []


LEARNING = {
    "byol": (ProjectorSpec(hidden=256, out=64, batch_norm=True), {"momentum": 0.95, "final_momentum": 1.0}, {}),
    "simsiam": (ProjectorSpec(hidden=256, out=256, layers=3, batch_norm=True, **SIMSIAM_NORMS), {}, {"lr": 3e-3}),
    "barlow-twins": (ProjectorSpec(hidden=128, out=64, batch_norm=True), {}, {"batch_size": 128}),
    "vicreg": (ProjectorSpec(hidden=128, out=64, batch_norm=True), {}, {}),
}


@pytest.mark.parametrize("name", LEARNING)
def test_fifty_steps_learn_the_scenes(name):
    head, options, training = LEARNING[name]
    method = METHODS[name].assemble(build_encoder("small-cnn", input_size=16, projector=head), **options)
    scores = train_scenes(method, **training)
    assert scores.learned, scores


def test_fifty_steps_of_dlme_lay_out_real_digits():
    """DLME keeps neighbours neighbours, so it is asked for a map: two dimensions, judged by five neighbours there."""
    rows, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    rows, labels = torch.from_numpy(rows / 8 - 1).float(), torch.from_numpy(labels)
    train, test = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).split(1400)
    head = ProjectorSpec(hidden=500, out=2, batch_norm=True, activation="leaky_relu")
    encoder = build_encoder("mlp", input_features=64, options={"widths": (500, 300, 80)}, projector=head)
    axes = torch.linalg.svd(rows[train] - rows[train].mean(0), full_matrices=False).Vh[:2].T

    def accuracy(points):
        nearest = labels[train][torch.cdist(points[test], points[train]).topk(5, largest=False).indices]
        return float((nearest.mode(dim=1).values == labels[test]).double().mean())

    def learned():
        with torch.no_grad():
            return accuracy(encoder.eval().project(encoder(rows)))

    others = {"untrained": learned(), "collapsed": accuracy(torch.zeros(len(rows), 2)), "pca": accuracy(rows @ axes)}
    train_on_neighbours(DLME(encoder, detach_p=True), rows[train])
    found = learned()
    assert found > 0.8 > max(others.values()), (found, others)


def train_on_neighbours(method, rows, steps=50):
    """Pairs of a row and its mixture with one of its five neighbours, as DiffAug augments tables by hand."""
    near = torch.cdist(rows, rows).topk(6, largest=False).indices[:, 1:]
    optimizer = torch.optim.AdamW(method.train().parameters(), lr=1e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randperm(len(rows), generator=draws)[:250]
        other = near[batch, torch.randint(5, (250,), generator=draws)]
        share = torch.rand(250, 1, generator=draws)
        method([rows[batch], share * rows[batch] + (1 - share) * rows[other]])["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_tables_will_do(name):
    head = ProjectorSpec(hidden=8, out=8, batch_norm=True)
    encoder = build_encoder("mlp", input_features=5, options={"widths": (16, 6)}, projector=head)
    loss = METHODS[name].assemble(encoder)([torch.randn(7, 5), torch.randn(7, 5)])["loss"]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", NAMES)
def test_batches_too_small_are_refused(name):
    with pytest.raises(InvalidOption, match="a batch of 2 over 2 processes leaves 1 row for batch norm"):
        build(name).check_batch(2, 100, 2)
    build(name).check_batch(4, 100, 2)
    with pytest.raises(InvalidOption, match=f"{name} takes 2 views of an image, got 3"):
        build(name)([*views(), views()[0]])


@pytest.mark.parametrize("name", ["barlow-twins", "vicreg"])
def test_statistics_need_two_rows_also_without_batch_norm(name):
    encoder = build_encoder("mlp", input_features=3, options={"widths": (4,)}, projector=ProjectorSpec(hidden=4, out=4))
    encoder.backbone = nn.Linear(3, 4)
    method = METHODS[name].assemble(encoder)
    with pytest.raises(InvalidOption, match="over 1 row is not defined"):
        method.check_batch(1, 100, 1)
    method.check_batch(2, 100, 2)


def test_parts_that_do_not_fit_are_refused():
    encoder = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=16))
    narrow = build_predictor(8, ProjectorSpec(hidden=8, out=8))
    for call, words in [
        (lambda: BYOL(encoder, narrow), "a predictor from 8 to 8 does not fit projections of width 16"),
        (lambda: SimSiam(encoder, narrow), "a predictor from 8 to 8 does not fit projections of width 16"),
        (lambda: BYOL.assemble(encoder, momentum=1.5), r"momentum 1\.5 to 1\.0"),
        (lambda: DLME(encoder, kernel="t"), "kernel 't' is not known; choose one of paper, official, peak1"),
        (lambda: DLME(encoder, beta=2.0), r"beta is 2\.0"),
    ]:
        with pytest.raises(InvalidOption, match=words):
            call()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("byol", {"momentum": 0.7}),
        ("barlow-twins", {"off_diagonal": 0.1}),
        ("barlow-twins", {"scale": 1.0}),
        ("vicreg", {"covariance": 2.0}),
        ("dlme", {"kernel": "paper"}),
        ("dlme", {"detach_p": False}),
    ],
)
def test_settings_hold_what_shapes_the_weights(name, changed):
    assert build(name, **changed).settings().items() >= changed.items()
    assert build(name).settings() != build(name, **changed).settings()


def test_dlme_takes_its_similarity_from_its_options():
    method = build("dlme", kernel="paper", nu_y=7.0, nu_z=0.3, beta=0.4, detach_p=True)
    assert method.similarity == Similarity(KERNELS["paper"], 7.0, 0.3, 0.4, True)
