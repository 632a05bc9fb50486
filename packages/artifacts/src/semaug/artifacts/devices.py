"""Which of several devices a worker computes on."""

from __future__ import annotations

from semaug.artifacts.pool import worker_number


def split_devices(devices: str) -> list[str]:
    """The devices of a list.

    >>> split_devices("cuda:0, cuda:1")
    ['cuda:0', 'cuda:1']
    """
    return [name.strip() for name in devices.split(",") if name.strip()]


def worker_device(devices: str) -> str:
    """The device of this process, out of ``devices``: one, a list such as ``cuda:0,cuda:1``, or `cuda` for all GPUs.

    Workers of a local pool take them in turn; every other process takes the first.
    """
    named, number = split_devices(devices), worker_number()
    if number is not None and named == ["cuda"]:
        import torch

        named = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or named
    return named[(number or 0) % len(named)]
