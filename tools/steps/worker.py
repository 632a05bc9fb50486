"""Runs training steps of one code base on demand: one JSON request a line on stdin, one JSON answer a line on stdout.

    python worker.py semaug|lightly|stable_pretraining THREADS

Requests: {"prepare": {the fields of work.Work}}, {"run": steps}, {"load": {"images": path of an .npy, "workers": n}},
{"train": steps}, {"accuracy": path of an .npz}. Every answer to a run has seconds in all and for each part of a step:
of processor time with one thread on a CPU, which is the time on an idle core and does not count other programs, else of
the wall clock. It runs in the environment of the code base and needs nothing of ours but the files beside it (and our
packages for ``semaug``).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

THREADS = sys.argv[2] if __name__ == "__main__" else ""
if THREADS:  # before anything that reads them is imported
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), THREADS)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from work import Views, Work, neighbour_accuracy, random_views  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARTS = ("data", "transfer", "forward", "backward", "update")


class Trainer:
    """One code base's method in the loop that all share: SGD with momentum, autocast where asked for."""

    def __init__(self, adapter: Any, work: Work) -> None:
        self.adapter, self.work = adapter, work
        torch.manual_seed(work.seed)
        self.subject = adapter.build(work)
        groups = getattr(adapter, "parameter_groups", _all_parameters)(self.subject, work.lr)
        self.optimizer = torch.optim.SGD(groups, lr=work.lr, momentum=0.9, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(work.device, enabled=work.precision == "fp16")
        self.views = random_views(work)
        self.batches: Iterator[Views] | None = None
        alone = THREADS == "1" and work.device == "cpu"
        self.clock = time.process_time if alone else time.perf_counter

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.subject.trained.parameters() if p.requires_grad)

    def run(self, steps: int, next_views: Callable[[], Views]) -> dict[str, float]:
        """Seconds of ``steps`` steps, in all and by part, and the last loss."""
        seconds = dict.fromkeys(PARTS, 0.0)
        started = now = self.clock()
        loss = torch.zeros(())
        for _ in range(steps):
            for part, act in self._parts(next_views):
                loss = act() if part == "forward" else (act(), loss)[1]
                self._wait()
                seconds[part] -= now - (now := self.clock())
        return {"seconds": now - started, "loss": float(loss.detach()), **seconds}

    def _parts(self, next_views: Callable[[], Views]) -> Iterator[tuple[str, Callable[[], Any]]]:
        held: dict[str, Any] = {}
        yield "data", lambda: held.update(views=next_views())
        yield "transfer", lambda: held.update(views=[v.to(self.work.device) for v in held["views"]])
        yield "forward", lambda: held.setdefault("loss", self._forward(held["views"]))
        yield "backward", lambda: self.scaler.scale(held["loss"]).backward()
        yield "update", self._update

    def _forward(self, views: Views) -> Tensor:
        self.optimizer.zero_grad()
        with autocast(self.work):
            return self.subject.loss(views)

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        self.subject.before_update()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.subject.after_step()

    def _wait(self) -> None:
        if self.work.device == "cuda":
            torch.cuda.synchronize()

    def load(self, images: str, workers: int, **options: Any) -> dict[str, float]:
        """Take batches from decoded images, uint8 (N, H, W, 3), from here on; the seconds that it took to be ready."""
        started = self.clock()
        self.batches = iter(self.adapter.load(list(np.load(images)), self.work, workers, **options))
        return {"seconds": self.clock() - started}

    def accuracy(self, path: str) -> dict[str, float]:
        """Nearest neighbours on the features of a file's ``train`` and ``test`` images, with their labels."""
        found, encode, trained = np.load(path), self.subject.encode, self.subject.trained
        assert encode is not None, "this method gives no features"
        trained.eval()
        with torch.inference_mode():
            bank, queries = (_features(encode, found[part]) for part in ("train", "test"))
        trained.train()
        labels = [torch.from_numpy(found[f"{part}_labels"]).long() for part in ("train", "test")]
        return {"accuracy": neighbour_accuracy(bank, labels[0], queries, labels[1])}

    def train(self, steps: int) -> dict[str, float]:
        """As ``run``, on the views of loaded images."""
        batches = self.batches
        assert batches is not None, "load images first"
        return self.run(steps, lambda: next(batches))


def _features(encode: Callable[[Tensor], Tensor], images: Any) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    return torch.cat([encode((part.float() / 255 - mean) / std) for part in parts])


def autocast(work: Work) -> AbstractContextManager[Any]:
    """The precision of a row."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if work.precision not in kinds:
        return nullcontext()
    return torch.autocast(work.device, dtype=kinds[work.precision])


def _all_parameters(subject: Any, lr: float) -> list[dict[str, Any]]:
    return [{"params": [p for p in subject.trained.parameters() if p.requires_grad]}]


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    torch.set_num_threads(int(THREADS))
    adapter = import_module(f"with_{sys.argv[1]}")
    trainer: Trainer | None = None
    for line in sys.stdin:
        ((verb, value),) = json.loads(line).items()
        try:
            if verb == "prepare":
                trainer = None
                trainer = Trainer(adapter, Work(**value))
                answer: dict[str, Any] = {"parameters": trainer.parameters}
            else:
                assert trainer is not None, "prepare first"
                answer = _serve(trainer, verb, value)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _serve(trainer: Trainer, verb: str, value: Any) -> dict[str, Any]:
    if verb == "load":
        return trainer.load(**value)
    if verb == "accuracy":
        return trainer.accuracy(value)
    if verb == "train":
        return trainer.train(value)
    return trainer.run(value, lambda: trainer.views)


if __name__ == "__main__":
    main()
