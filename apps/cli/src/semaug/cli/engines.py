"""Where shards are worked on: ``--engine`` with its options, and the devices of ``--device``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from semaug.artifacts.devices import split_devices
from semaug.cli.console import pick_device, settings

if TYPE_CHECKING:
    from semaug.artifacts.shards import Workers

_KEPT = "semaug.engine"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    ctx.meta[f"{_KEPT}.{param.name}"] = value


def _kept(name: str) -> Any:
    return click.get_current_context().meta.get(f"{_KEPT}.{name}")


_OPTIONS = (
    click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, expose_value=False,
        callback=_keep, help="Where --workers run: processes here, or actors of Ray.",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", expose_value=False, callback=_keep,
        help="A Ray cluster that this machine is a node of (auto, HOST:PORT); without it Ray starts here.",
    ),
    click.option(
        "--gpus-per-actor", type=click.FloatRange(0), expose_value=False, callback=_keep,
        help="GPU of each actor of Ray; 0.5: two share one (1 with --device cuda).",
    ),
)  # fmt: skip


def engine_options(command: Any) -> Any:
    """``--engine`` and its options, for a verb that works shard by shard; they reach ``shard_workers``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def pick_devices() -> str:
    """The device that ``--device`` names, or the best there is; or several, such as ``cuda:0,cuda:1``."""
    named = split_devices(settings().device)
    if not named:
        raise click.UsageError(f"--device {settings().device!r} names no device; give cpu, cuda or cuda:0,cuda:1")
    if len(named) == 1:
        named = [pick_device()]
    _check_devices(named)
    return ",".join(named)


def _check_devices(named: list[str]) -> None:
    """Refuse GPUs that are not there, and a choice of GPUs where Ray makes it."""
    gpus = [name for name in named if name.startswith("cuda")]
    if not gpus:
        return
    if _kept("engine") == "ray":
        if gpus != ["cuda"]:
            raise click.UsageError(
                f"--engine ray gives every actor its GPU, --device {','.join(named)} does too; give --device cuda"
            )
        return
    import torch

    count = torch.cuda.device_count()
    known = {"cuda", *(f"cuda:{i}" for i in range(count))}
    if not count or not known.issuperset(gpus):
        wrong = next((name for name in gpus if name not in known), gpus[0])
        raise click.UsageError(f"--device {wrong} is not here: PyTorch sees {count} GPUs; give another, or cpu")


@contextmanager
def shard_workers() -> Iterator[Workers]:
    """What ``--workers``, ``--device`` and ``--engine`` ask for: processes of this machine, or Ray."""
    workers, devices = settings().workers, split_devices(settings().device)
    if _kept("engine") != "ray":
        for name in ("ray_address", "gpus_per_actor"):
            if _kept(name) is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} belongs to --engine ray; add it")
        yield workers or (len(devices) if len(devices) > 1 else 0)
        return
    from semaug.artifacts.ray_engine import RayEngine

    gpus = _kept("gpus_per_actor")
    if gpus is None:
        gpus = 1.0 if settings().device.startswith("cuda") else 0.0
    with RayEngine(max(1, workers), _kept("ray_address"), gpus) as engine:
        yield engine
