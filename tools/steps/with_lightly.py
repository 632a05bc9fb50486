"""lightly's heads, losses and helpers put together as its examples describe. Runs in an environment of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models import utils
from lightly.models.modules import heads
from torch import Tensor, nn
from torch.nn import functional
from work import (
    DECODER,
    OUTPUTS,
    PROTOTYPES,
    QUEUE,
    Images,
    InMemory,
    Subject,
    Views,
    Work,
    endless,
    plain_backbone,
    plain_transformer,
)  # fmt: skip


def build(work: Work) -> Subject:
    """Any method of ``BUILDERS``."""
    return BUILDERS[work.method](work)


def _siamese(head: Callable[[int], nn.Module], loss: nn.Module, work: Work) -> Subject:
    backbone, width = plain_backbone(work)
    network = nn.Sequential(backbone, head(width)).to(work.device).train()
    return Subject(network, lambda views: loss(network(views[0]), network(views[1])), encode=backbone)


def simclr(work: Work) -> Subject:
    return _siamese(lambda width: heads.SimCLRProjectionHead(width, 2048, 128), NTXentLoss(0.2), work)


def barlow_twins(work: Work) -> Subject:
    return _siamese(lambda width: heads.BarlowTwinsProjectionHead(width, 2048, 2048), BarlowTwinsLoss(), work)


def vicreg(work: Work) -> Subject:
    return _siamese(lambda width: heads.VICRegProjectionHead(width, 2048, 2048), VICRegLoss(), work)


def simsiam(work: Work) -> Subject:
    backbone, width = plain_backbone(work)
    encoder = nn.Sequential(backbone, heads.SimSiamProjectionHead(width, 2048, 2048))
    network = nn.ModuleList([encoder, heads.SimSiamPredictionHead(2048, 512, 2048)]).to(work.device).train()
    similarity = NegativeCosineSimilarity()

    def loss(views: Views) -> Tensor:
        z0, z1 = (network[0](view) for view in views)
        p0, p1 = network[1](z0), network[1](z1)
        return (similarity(p0, z1.detach()) + similarity(p1, z0.detach())) / 2

    return Subject(network, loss)


def _slow_copy(fast: nn.Module) -> nn.Module:
    slow = copy.deepcopy(fast)
    utils.deactivate_requires_grad(slow)
    return slow


def byol(work: Work) -> Subject:
    backbone, width = plain_backbone(work)
    fast = nn.Sequential(backbone, heads.BYOLProjectionHead(width, 4096, 256))
    predictor = heads.BYOLPredictionHead(256, 4096, 256)
    network = nn.ModuleList([fast, predictor, _slow_copy(fast)]).to(work.device).train()
    similarity = NegativeCosineSimilarity()

    def loss(views: Views) -> Tensor:
        p0, p1 = (network[1](network[0](view)) for view in views)
        with torch.no_grad():
            z0, z1 = (network[2](view) for view in views)
        return (similarity(p0, z1) + similarity(p1, z0)) / 2

    return Subject(network, loss, after_step=lambda: utils.update_momentum(network[0], network[2], m=0.99))


def _contrast(work: Work, symmetric: bool) -> Subject:
    backbone, width = plain_backbone(work)
    fast = nn.Sequential(backbone, heads.MoCoProjectionHead(width, 2048, 128))
    losses = [NTXentLoss(0.2, memory_bank_size=(QUEUE, 128)) for _ in range(1 + symmetric)]
    network = nn.ModuleList([fast, _slow_copy(fast), *losses]).to(work.device).train()

    def one_way(criterion: nn.Module, query: Tensor, key: Tensor) -> Tensor:
        with torch.no_grad():
            keys = network[1](key)
        return criterion(network[0](query), keys)

    def loss(views: Views) -> Tensor:
        total = one_way(losses[0], views[0], views[1])
        return (total + one_way(losses[1], views[1], views[0])) / 2 if symmetric else total

    return Subject(network, loss, after_step=lambda: utils.update_momentum(network[0], network[1], m=0.99))


def moco_v2(work: Work) -> Subject:
    return _contrast(work, symmetric=False)


def moco_v2plus(work: Work) -> Subject:
    return _contrast(work, symmetric=True)


def swav(work: Work) -> Subject:
    backbone, width = plain_backbone(work)
    encoder = nn.Sequential(backbone, heads.SwaVProjectionHead(width, 2048, 128))
    network = nn.ModuleList([encoder, heads.SwaVPrototypes(128, PROTOTYPES)]).to(work.device).train()
    criterion = SwaVLoss()

    def loss(views: Views) -> Tensor:
        network[1].normalize()
        scores = [network[1](functional.normalize(network[0](view), dim=1)) for view in views]
        return criterion(scores[:2], scores[2:])

    return Subject(network, loss)


def dino(work: Work) -> Subject:
    backbone, width = plain_backbone(work)
    head = heads.DINOProjectionHead(width, 2048, 256, OUTPUTS, freeze_last_layer=1)
    student, teacher = nn.Sequential(backbone, head), nn.Sequential(*plain_teacher(work))
    teacher.load_state_dict(student.state_dict())
    utils.deactivate_requires_grad(teacher)
    network = nn.ModuleList([student, teacher, DINOLoss(OUTPUTS)]).to(work.device).train()

    def loss(views: Views) -> Tensor:
        with torch.no_grad():
            targets = [teacher(view) for view in views[:2]]
        return network[2](targets, [student(view) for view in views], epoch=5)

    def before_update() -> None:
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        head.cancel_last_layer_gradients(current_epoch=5)

    return Subject(network, loss, before_update, lambda: utils.update_momentum(student, teacher, m=0.99))


def plain_teacher(work: Work) -> Sequence[nn.Module]:
    """DINO's second network, built anew: weight-normalised layers are not copied by deepcopy."""
    backbone, width = plain_backbone(work)
    return backbone, heads.DINOProjectionHead(width, 2048, 256, OUTPUTS)


def mae(work: Work) -> Subject:
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM

    encoder = MaskedVisionTransformerTIMM(vit=plain_transformer(work))
    tokens, width = encoder.sequence_length, DECODER["width"]
    decoder = MaskedVisionTransformerDecoderTIMM(tokens - 1, width, DECODER["depth"], DECODER["heads"])
    network = nn.ModuleList([encoder, nn.Linear(384, width), decoder, nn.Linear(width, 48)]).to(work.device).train()

    def loss(views: Views) -> Tensor:
        images = views[0]
        size = (len(images), tokens)
        keep, hidden = utils.random_token_mask(size=size, mask_ratio=0.75, device=images.device)
        seen = network[1](encoder.encode(images=images, idx_keep=keep))
        filled = utils.set_at_index(utils.repeat_token(decoder.mask_token, size), keep, seen)
        predicted = network[3](utils.get_at_index(decoder(filled), hidden))
        target = utils.get_at_index(utils.patchify(images, 4), hidden - 1)
        return functional.mse_loss(predicted, utils.normalize_mean_var(target))

    return Subject(network, loss)


BUILDERS: dict[str, Callable[[Work], Subject]] = {
    "simclr": simclr,
    "moco-v2": moco_v2,
    "moco-v2plus": moco_v2plus,
    "byol": byol,
    "simsiam": simsiam,
    "barlow-twins": barlow_twins,
    "vicreg": vicreg,
    "swav": swav,
    "dino": dino,
    "mae": mae,
}


def load(images: Images, work: Work, workers: int) -> Iterator[Views]:
    """SimCLR's views by lightly's transform of PIL images and torch's loader."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader

    data: Any = InMemory([Image.fromarray(image) for image in images], SimCLRTransform(input_size=work.size))
    yield from endless(DataLoader(data, work.batch, shuffle=True, drop_last=True, num_workers=workers))  # type: ignore[misc]
