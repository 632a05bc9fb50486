"""Training in float64, and what cannot be done beside it."""

from __future__ import annotations

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.hardware import Hardware
from semaug.studies.assemble import OnlineKnn, TrainingPlan, train


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (TrainingPlan("scenes:train", online_knn=OnlineKnn("scenes:train", "scenes:test", 10)), "online kNN"),
        (TrainingPlan("scenes:train", pairs="self"), "pairs 'self'"),
    ],
)
def test_what_reads_float32_is_refused_before_anything_is_read(tmp_path, plan, said):
    with pytest.raises(InvalidOption, match=f"^{said} with precision 'fp64'.* take --precision fp32"):
        train(plan, tmp_path / "run", hardware=Hardware(precision="fp64"))
    assert not (tmp_path / "run").exists()
