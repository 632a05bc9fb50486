"""Jobs of a study: train one variant with one seed, then score its frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semaug.artifacts.files import writing
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import inputs_of, open_source
from semaug.studies.assemble import TrainingPlan, embed_run, train
from semaug.studies.evaluation import measures, ran_on, run_knn, run_linear, write_results

TEST_FEATURES = "test_features.npz"
_PAIR_ARTIFACTS = {"pairs": "semantic", "synthetic": "synthetic", "similarity": "similarity"}
"""Role in a job's description -> the pair option that names the artifact."""


@dataclass(frozen=True, slots=True)
class TrainAndScore:
    """Pretrain by ``plan`` into ``out``, then linear probe and kNN of ``test`` images against ``train`` images.

    ``keep_features`` also keeps the test images' features for a map.
    """

    name: str
    out: Path
    plan: TrainingPlan
    train: str
    test: str
    device: str = "cpu"
    keep_features: bool = False

    @property
    def steps(self) -> int:
        return self.plan.steps

    def describe(self) -> dict[str, Any]:
        """The plan, and the content (not only the places) of what it trains and is scored on."""
        places = {"images": self.plan.images, "train": self.train, "test": self.test}
        content = {role: inputs_of(open_source(spec)) for role, spec in places.items()}
        guidance = Artifact.open(self.plan.guidance, "guidance").digest if self.plan.guidance else None
        plan = {"plan": self.plan.describe(), "content": content, "guidance": guidance, "kept": self.keep_features}
        return plan | {
            role: Artifact.open(path).digest
            for role, option in _PAIR_ARTIFACTS.items()
            if (path := self.plan.pair_options.get(option)) is not None
        }

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Train (or go on), embed, score; returns the measures."""
        from semaug.ssl_methods.pretrain import Hardware

        train(self.plan, self.out, hardware=Hardware(self.device), on_progress=on_progress)
        bank = embed_run(self.out, open_source(self.train), device=self.device, on_progress=ignore_progress)
        queries = embed_run(self.out, open_source(self.test), device=self.device, on_progress=ignore_progress)
        seed = self.plan.seed
        rows = {**measures(run_linear(bank, queries, seed=seed)), **measures(run_knn(bank, queries, seed=seed))}
        where = ran_on(self.out, {"train": self.train, "test": self.test}, settings={"seed": seed}, device=self.device)
        write_results(self.out / "eval", "measures", rows, ran_on=where)
        if self.keep_features:
            _keep(self.out / TEST_FEATURES, queries)
        return rows


def _keep(path: Path, features: Any) -> None:
    import numpy as np

    with writing(path):
        np.savez(path, features=features.features, labels=features.labels)
