"""stable-pretraining's method classes on the same backbone. Runs in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from stable_pretraining import methods
from stable_pretraining.backbone import TeacherStudentWrapper
from torch import Tensor, nn
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

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(work: Work) -> Subject:
    """Any method of ``BUILDERS``; teachers follow after every step, as its callback has them do."""
    backbone = plain_transformer(work) if work.method == "mae" else plain_backbone(work)[0]
    method = BUILDERS[work.method](backbone).to(work.device).train()
    if work.method == "moco-v2":  # its queue starts empty and grows; ours and lightly's are full from the first step
        method.queue.append(torch.nn.functional.normalize(torch.randn(QUEUE, 128, device=work.device), dim=1))
    wrappers = [m for m in method.modules() if isinstance(m, TeacherStudentWrapper)]

    def follow() -> None:
        for wrapper in wrappers:
            wrapper.update_ema_coefficient(0, 100)
            wrapper.update_teacher()

    def clip() -> None:
        if work.method == "dino":
            torch.nn.utils.clip_grad_norm_(method.parameters(), 3.0)

    encode = backbone if work.method == "simclr" else None  # others keep a copy of theirs
    return Subject(method, lambda views: _loss(method, views, work), clip, follow, encode)


def _loss(method: nn.Module, views: Views, work: Work) -> Tensor:
    if work.method in ("swav", "dino"):
        return method(global_views=views[:2], local_views=views[2:]).loss
    return method(*views).loss


BUILDERS: dict[str, Callable[[nn.Module], Any]] = {
    "simclr": lambda net: methods.SimCLR(net, projector_dims=(2048, 128), temperature=0.2),
    "moco-v2": lambda net: methods.MoCov2(net, projector_dims=(2048, 128), queue_length=QUEUE),
    "moco-v3": lambda net: methods.MoCov3(net),
    "byol": lambda net: methods.BYOL(net),
    "simsiam": lambda net: methods.SimSiam(net),
    "barlow-twins": lambda net: methods.BarlowTwins(net, projector_dims=(2048, 2048, 2048)),
    "vicreg": lambda net: methods.VICReg(net, projector_dims=(2048, 2048, 2048)),
    "swav": lambda net: methods.SwAV(net, projector_dims=(2048, 128), n_prototypes=PROTOTYPES),
    "dino": lambda net: methods.DINO(net, n_prototypes=OUTPUTS),
    "mae": lambda net: methods.MAE(
        net,
        decoder_embed_dim=DECODER["width"],
        decoder_depth=DECODER["depth"],
        decoder_num_heads=DECODER["heads"],
    ),
}


def load(images: Images, work: Work, workers: int) -> Iterator[Views]:
    """SimCLR's views by its transforms of PIL images and torch's loader."""
    from PIL import Image
    from stable_pretraining.data import transforms as T
    from torch.utils.data import DataLoader

    def view() -> Any:
        return T.Compose(
            T.RandomResizedCrop(work.size, scale=(0.08, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            T.RandomGrayscale(0.2),
            T.PILGaussianBlur(sigma=(0.1, 2.0), p=0.5),
            T.ToImage(mean=MEAN, std=STD),
        )

    both = T.MultiViewTransform([view(), view()])
    data: Any = InMemory([{"image": Image.fromarray(image)} for image in images], both)
    loader = DataLoader(data, work.batch, shuffle=True, drop_last=True, num_workers=workers)
    for batch in endless(loader):
        yield [view["image"] for view in batch["views"]]  # type: ignore[index]
