"""``semaug eval svm``, ``kmeans``, ``fewshot`` and ``semi`` on a run: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from semaug.cli.commands.evaluate import group
from semaug.cli.console import explain
from semaug.eval.features import Features
from semaug.eval.probes.kmeans import hungarian_accuracy

TRAIN, TEST = "scenes:train?items=80", "scenes:test?items=40"


def evaluate(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if isinstance(result.exception, Exception):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semaug.artifacts.sources import open_source
    from semaug.ssl_methods import build_encoder
    from semaug.ssl_methods.cards import save_encoder

    folder, inputs = tmp_path_factory.mktemp("run"), {"source": open_source(TRAIN).fingerprint}
    encoder = build_encoder("small-cnn", input_size=32, seed=0)
    save_encoder(folder, encoder, method="simclr", seed=0, steps=0, inputs=inputs)
    return folder


def written(run: Path, verb: str, *words: object, train: str = TRAIN) -> dict:
    """The file that a verb wrote; what it printed must be the same."""
    code, text, error = evaluate(verb, run, "--train", train, "--test", TEST, *words, "--json")
    assert code == 0, error
    printed, kept = json.loads(text), json.loads((run / "eval" / f"{verb}.json").read_text())
    assert {name: row for name, row in printed.items() if name != "results"} == kept["measures"]
    assert set(kept["ran_on"]["sources"]) == {"train", "test"}
    assert kept["ran_on"]["settings"]["seed"] == 0
    return kept


def test_svm_scores_both_forms_and_tells_that_the_encoder_saw_the_images(run: Path) -> None:
    kept = written(run, "svm", "--folds", "3")
    rows = kept["measures"]
    folds = [f"svm/folds/top1{end}" for end in ("", "_std", "_interval_low", "_interval_high")]
    assert list(rows) == ["svm/top1", *folds]
    assert rows["svm/top1"]["n"] == 40
    assert rows["svm/folds/top1"]["n"] == 80
    assert any("transductive" in warning for warning in kept["warnings"])
    elsewhere = written(run, "svm", "--folds", "3", train="scenes:train?items=79")
    assert not any("transductive" in warning for warning in elsewhere["warnings"])
    assert list(written(run, "svm", "--kernel", "rbf", "--folds", "0")["measures"]) == ["svm-rbf/top1"]


def test_kmeans_scores_both_spaces_and_names_the_setting(run: Path) -> None:
    rows = written(run, "kmeans", "--repetitions", "2")["measures"]
    assert {name.rsplit("/", 1)[0] for name in rows} == {"kmeans/backbone/inductive", "kmeans/projector/inductive"}
    whole = written(run, "kmeans", "--repetitions", "1", "--transductive", "--normalise")["measures"]
    assert {row["n"] for row in whole.values()} == {120}
    assert "kmeans/backbone/transductive/nmi" in whole


def test_fewshot_gives_a_reason_where_shots_exceed_samples(run: Path) -> None:
    rows = written(run, "fewshot", "--shots", "1", "--shots", "70", "--episodes", "10")["measures"]
    assert 0 < rows["fewshot/1-shot/logistic/top1"]["value"] < 1
    assert rows["fewshot/70-shot/centroid/top1"]["value"] is None
    assert "70 shots, and class" in rows["fewshot/70-shot/centroid/top1"]["reason"]


def test_semi_takes_shares_of_the_labels(run: Path) -> None:
    rows = written(run, "semi", "--share", "0.1", "--share", "0.5", "--draws", "2")["measures"]
    assert rows["semi/10%/labelled"]["value"] < rows["semi/50%/labelled"]["value"] == 40
    assert rows["semi/50%/frozen/top1"]["n"] == 40


def test_semi_fine_tunes_on_the_same_subsets(run: Path) -> None:
    words = ("--train", TRAIN, "--test", TEST, "--share", "0.5", "--draws", "1", "--finetune", "--epochs", "1")
    code, text, error = evaluate("semi", run, *words, "--json")
    assert code == 0, error
    rows = json.loads((run / "eval" / "semi-finetune.json").read_text())["measures"]
    assert {name: row for name, row in json.loads(text).items() if name != "results"} == rows
    assert rows["semi/50%/labelled"]["value"] == 40
    assert rows["semi/50%/finetuned/top1"]["n"] == 40
    code, _, error = evaluate("semi", run, *words[:-3], "--epochs", "3")
    assert code == 2
    assert "--epochs 3 is for --finetune" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("svm", "--folds", "1"), "1 folds"),
        (("kmeans", "--clusters", "1"), "1 clusters; give at least 2"),
        (("kmeans", "--repetitions", "0"), "0 seeds"),
        (("fewshot", "--ways", "50"), "50 ways of"),
        (("fewshot", "--shots", "0"), "give at least 1 of each"),
        (("semi", "--share", "3"), "give at least one, above 0 and at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(run: Path, words: tuple[str, ...], said: str) -> None:
    code, _, error = evaluate(words[0], run, "--train", TRAIN, "--test", TEST, *words[1:])
    assert code == 1
    assert said in error
    assert "\n" not in error.strip()


def test_the_scores_are_those_of_the_runs_own_features(run: Path) -> None:
    """k-means of the features that ``embed_run`` gives, by hand, is what the verb printed."""
    from sklearn.cluster import KMeans

    from semaug.artifacts.draws import generator
    from semaug.artifacts.sources import open_source
    from semaug.studies.assemble import embed_run

    def features(spec: str) -> Features:
        return embed_run(run, open_source(spec))

    train, test = features(TRAIN), features(TEST)
    state = int(generator(0, "k-means", epoch=0).integers(2**31))
    clusters = KMeans(train.classes, n_init=10, random_state=state).fit(train.features).predict(test.features)
    rows = written(run, "kmeans", "--repetitions", "1")["measures"]
    expected = hungarian_accuracy(np.asarray(clusters), test.labels)
    assert rows["kmeans/backbone/inductive/accuracy"]["value"] == pytest.approx(expected, abs=1e-12)
