"""``semaug data``: what is printed, where, and with which exit code."""

import json

import pytest
from click.testing import CliRunner

from semaug.artifacts.testing import UNREADABLE, write_difficult_folder, write_image_folder
from semaug.cli.commands.data import group
from semaug.cli.console import explain


def run(*words):
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path):
    return write_image_folder(tmp_path / "set", 6)


def test_pack_then_info_then_verify(folder, tmp_path):
    out = tmp_path / "images.zarr"
    code, text, _ = run("pack", folder, "--out", out, "--size", 32, "--json")
    packed = json.loads(text)
    assert (code, packed["items"], packed["skipped"]) == (0, 6, 0)
    code, text, _ = run("info", out, "--json")
    info = json.loads(text)
    assert (code, info["what"], info["config"]["size"], info["finished"]) == (0, "images artifact", 32, True)
    code, text, _ = run("verify", out, "--json")
    assert code == 0
    assert json.loads(text)["digest"] == info["digest"]


def test_index_prints_the_fingerprint_of_the_folder(folder, tmp_path):
    _, text, _ = run("index", folder, "--out", tmp_path / "index.zarr", "--json")
    code, described, _ = run("info", folder, "--json")
    info = json.loads(described)
    assert code == 0
    assert json.loads(text)["fingerprint"] == info["fingerprint"]
    assert (info["items"], info["images_per_class"], info["unlabelled"]) == (6, [3, 3], 0)


@pytest.mark.parametrize("verb", ["index", "pack"])
def test_skipped_inputs_end_with_three(tmp_path, verb):
    zoo = write_difficult_folder(tmp_path / "zoo")
    code, text, messages = run(verb, zoo, "--out", tmp_path / "o.zarr", "--json")
    assert code == 3
    assert json.loads(text)["unreadable" if verb == "index" else "skipped"] == len(UNREADABLE)
    assert "skipped.csv" in messages
    listed = (tmp_path / "o.zarr" / "skipped.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in listed[1:]) == sorted(UNREADABLE)


def test_verify_fails_on_damage(folder, tmp_path):
    out = tmp_path / "images.zarr"
    run("pack", folder, "--out", out)
    chunk = out / "shards/000000/label/c/0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    code, text, messages = run("verify", out)
    assert code == 1
    assert "DAMAGED" in text
    assert "does not match its digest" in messages


@pytest.mark.parametrize(("verb", "make", "message"), [
    ("pack", lambda p: p.mkdir(), "holds no images"),
    ("index", lambda p: None, "does not exist"),
    ("info", lambda p: p.write_text("x"), "no known kind"),
    ("verify", lambda p: p.mkdir(), "not a semaug artifact"),
])  # fmt: skip
def test_failures_are_one_line_and_exit_one(tmp_path, verb, make, message):
    make(tmp_path / "input")
    out = ("--out", tmp_path / "o.zarr") if verb in ("pack", "index") else ()
    code, _, error = run(verb, tmp_path / "input", *out)
    assert code == 1
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "o.zarr").exists()


def test_an_output_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, error = run("pack", folder, "--out", tmp_path / "file" / "o.zarr")
    assert (code, "cannot write" in error) == (1, True)


def test_usage_errors_exit_two(folder):
    assert run("pack", folder)[0] == 2
    assert run("pack", folder, "--out", "x", "--format", "bmp")[0] == 2


def test_text_is_for_people_and_json_for_programs(folder, tmp_path):
    _, text, _ = run("pack", folder, "--out", tmp_path / "images.zarr")
    memory = next(line for line in text.splitlines() if line.startswith("peak_memory"))
    assert memory.endswith(" MB")
    assert 10 < float(memory.split()[1].replace(",", "")) < 10_000
    _, text, _ = run("info", folder)
    assert "3, 3" in [line.removeprefix("images_per_class").strip() for line in text.splitlines()]
