"""The baselines: against scikit-learn and umap-learn by value, closed forms of the parametric loss, bad input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier

from semaug.artifacts.errors import InvalidOption, MissingDependency
from semaug.diffaug_core.parametric_umap import ParametricUmapSettings, fit_parametric_umap, umap_cost
from semaug.diffaug_core.projections import PROJECTIONS, Baseline, fit_projection


def digits(n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = load_digits(return_X_y=True)
    return (rows[:n] / 16).astype(np.float32), labels[:n]


def test_pca_is_the_best_plane() -> None:
    rows, _ = digits()
    fitted = fit_projection("pca", rows[:100], 0)
    centred = rows[:100] - rows[:100].mean(axis=0)
    singular = np.linalg.svd(centred.astype(np.float64), compute_uv=False)
    assert fitted.embedding.var(axis=0) * 100 == pytest.approx(singular[:2] ** 2, rel=1e-4)
    assert fitted.transform is not None
    wanted = PCA(2, svd_solver="full").fit(rows[:100]).transform(rows[100:])
    np.testing.assert_allclose(fitted.transform(rows[100:]), wanted, atol=1e-5)


def test_tsne_is_that_of_the_paper_and_places_no_other_rows() -> None:
    rows, _ = digits(120)
    fitted = fit_projection("tsne", rows, 3)
    machine = TSNE(perplexity=30, learning_rate=200, init="pca", random_state=3, n_jobs=1)
    assert np.array_equal(fitted.embedding, machine.fit_transform(rows))
    assert fitted.transform is None
    assert not PROJECTIONS["tsne"].inductive


def test_cost_of_known_pairs() -> None:
    distance, joined = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
    assert umap_cost(distance, joined, (1.0, 1.0)).item() == pytest.approx(math.log(2))  # both similarities are 1/2
    far = umap_cost(torch.tensor([3.0]), torch.tensor([False]), (2.0, 1.5)).item()
    assert far == pytest.approx(-math.log(1 - 1 / (1 + 2 * 3**3)), rel=1e-5)
    at_zero = torch.zeros(1, requires_grad=True)
    umap_cost(at_zero, torch.tensor([True]), (1.6, 0.9)).backward()
    assert at_zero.grad is not None
    assert torch.isfinite(at_zero.grad).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")  # umap-learn's own word at import
@pytest.mark.parametrize("name", [n for n, b in PROJECTIONS.items() if not b.missing])
def test_every_installed_baseline_keeps_neighbours_is_quiet_and_repeats(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, labels = digits(500)
    fit, held = rows[:400], rows[400:]
    fitted = fit_projection(name, fit, 0)
    assert fitted.embedding.shape == (400, 2)
    assert fitted.embedding.dtype == np.float32
    near = KNeighborsClassifier(5).fit(fitted.embedding, labels[:400])
    assert near.score(fitted.embedding, labels[:400]) > (0.6 if name == "pca" else 0.9)
    assert np.array_equal(fit_projection(name, fit, 0).embedding, fitted.embedding)
    assert (fitted.transform is not None) == PROJECTIONS[name].inductive
    if fitted.transform is not None:
        placed = fitted.transform(held)
        assert placed.shape == (100, 2)
        assert near.score(placed, labels[400:]) > (0.4 if name == "pca" else 0.6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_parametric_umap_lowers_its_cost_and_differs_by_seed() -> None:
    rows, labels = digits(300)
    little = fit_parametric_umap(rows, 0, ParametricUmapSettings(passes=1))(rows)
    longer = fit_parametric_umap(rows, 0, ParametricUmapSettings(passes=100))(rows)
    scores = [KNeighborsClassifier(5).fit(e, labels).score(e, labels) for e in (little, longer)]
    assert scores[1] > max(0.9, scores[0])
    assert not np.allclose(fit_parametric_umap(rows, 1, ParametricUmapSettings(passes=1))(rows), little)


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = digits(40)
    with pytest.raises(InvalidOption, match=r"projection 'lda' is not known; choose one of pca, tsne"):
        fit_projection("lda", rows, 0)
    with pytest.raises(InvalidOption, match="30 rows, and t-SNE needs 31"):
        fit_projection("tsne", rows[:30], 0)
    broken = rows.copy()
    broken[3, 5] = np.nan
    with pytest.raises(InvalidOption, match="1 rows hold NaN or infinity"):
        fit_projection("pca", broken, 0)
    absent = Baseline("Absent", PROJECTIONS["pca"].fit, package="no_such_module", remedy="pip install it")
    monkeypatch.setitem(PROJECTIONS, "absent", absent)
    assert absent.missing == "not run: pip install it"
    with pytest.raises(MissingDependency, match="Absent is not run: pip install it"):
        fit_projection("absent", rows, 0)


def test_importing_the_registry_imports_no_library(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, semaug.diffaug_core.projections as p; p.PROJECTIONS['umap'].missing; "
        "print([m for m in ('umap', 'pacmap', 'phate', 'numba', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]"
