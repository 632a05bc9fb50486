"""Which device each worker of a local pool takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from semaug.artifacts.devices import split_devices, worker_device
from semaug.artifacts.pool import spawn_map, worker_number


@dataclass(frozen=True)
class Ask:
    """Tells the device of this process, once every worker is at work."""

    devices: str

    def __call__(self, item: int, report: Callable[[object], None]) -> tuple[int, str]:
        import time

        time.sleep(0.5)  # so that no worker does it all
        return os.getpid(), worker_device(self.devices)


def test_workers_take_the_devices_in_turn_and_every_item_of_a_worker_has_the_same() -> None:
    found = [
        future.result()
        for _, future in spawn_map(Ask("one, two"), range(6), workers=3, on_event=lambda _: None, what="x")
    ]
    of_worker = dict(found)
    assert len(of_worker) == 3
    assert set(found) == set(of_worker.items())
    assert sorted(of_worker.values()) in (["one", "one", "two"], ["one", "two", "two"])


def test_a_process_that_is_no_worker_takes_the_first() -> None:
    assert worker_number() is None
    assert [worker_device(text) for text in ("cuda:1,cuda:0", "cpu", "cuda")] == ["cuda:1", "cpu", "cuda"]


def test_all_gpus_are_taken_in_turn_by_workers_that_are_told_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for number, device in ((0, "cuda:0"), (4, "cuda:1"), (None, "cuda")):
        monkeypatch.setattr("semaug.artifacts.devices.worker_number", lambda number=number: number)
        assert worker_device("cuda") == device


@pytest.mark.parametrize(("text", "devices"), [("", []), (" , ", []), ("cpu", ["cpu"]), ("a, b,", ["a", "b"])])
def test_a_list_of_devices_is_split_at_its_commas(text: str, devices: list[str]) -> None:
    assert split_devices(text) == devices
