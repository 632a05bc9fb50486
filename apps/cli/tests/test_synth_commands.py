"""``semaug synth`` as a user meets it, with tiny random models of the real classes given by path."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from semaug.artifacts.reader import Artifact  # noqa: E402
from semaug.artifacts.sources import open_source  # noqa: E402
from semaug.artifacts.synthetic_table import SyntheticTable  # noqa: E402
from semaug.cli import console  # noqa: E402
from semaug.cli import main as entry  # noqa: E402
from semaug.prompt_synthesis import tiny_diffusion_models as tiny  # noqa: E402
from semaug.prompt_synthesis.ade20k import UNLABELLED, class_of  # noqa: E402
from semaug.prompt_synthesis.store import MapTable  # noqa: E402
from semaug.prompt_synthesis.tiny_language_models import save_blip2, save_llama  # noqa: E402
from semaug.prompt_synthesis.tiny_panoptic_models import save_mask2former  # noqa: E402

IMAGES = "scenes:train?items=10"
SMALL = ("--size", "32", "--steps", "2", "--guidance", "1")
SHORT = ("--caption-tokens", "5", "--rewrite-tokens", "5")


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_blip2(folder / "blip2")
    save_llama(folder / "llama")
    tiny.save_stable_diffusion(folder / "sd")
    tiny.save_controlnet(folder / "net")
    save_mask2former(folder / "panoptic")
    save_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True)
def _one_thread_and_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``semaug WORDS``."""
    monkeypatch.setattr(sys, "argv", ["semaug", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


def whole(models: Path, out: Path) -> tuple[object, ...]:
    return (
        "synth", "run", IMAGES, "--captioner", models / "blip2", "--rewriter", models / "llama", "--n-sem", "1",
        "--n-vp", "1", "--vary", "crop", "--generator", models / "sd", "--clip", models / "clip", *SMALL, *SHORT,
        "--shard-size", "3", "--out", out, "--json",
    )  # fmt: skip


def test_one_command_from_images_to_similarities_is_the_stages_one_by_one(models, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.zarr"
    assert run(monkeypatch, *whole(models, out)) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["origins"], result["similarity"]["count"]) == (30, 10, 30)
    assert set(result["costs"]) == {"caption", "rewrite", "generate", "similarity"}
    assert run(monkeypatch, *whole(models, out)) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out)["images"] == 30

    shard = ("--shard-size", "3", "--json")
    captions, prompts, images = (tmp_path / f"{name}.zarr" for name in ("c", "p", "i"))
    step = ("synth", "caption", IMAGES, "--model", models / "blip2", "--caption-tokens", "5", *shard)
    assert run(monkeypatch, *step, "--out", captions) == 0
    assert len(json.loads(capsys.readouterr().out)["examples"]) == 3
    step = ("synth", "rewrite", captions, "--model", models / "llama", "--rewrite-tokens", "5", *shard)
    assert run(monkeypatch, *step, "--generator", models / "sd", "--out", prompts) == 0
    step = ("synth", "generate", IMAGES, "--model", models / "sd", "--captions", captions, "--prompts", prompts)
    own = ("--n-sem", "1", "--n-vp", "1", "--vary", "crop", *SMALL, *shard)
    assert run(monkeypatch, *step, *own, "--out", images) == 0
    assert Artifact.open(images).digest == Artifact.open(out).digest


def test_synthetic_images_train_an_encoder_in_every_mode(models, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.zarr"
    noise = ("--visual", "noise", "--repeats", "2", "--captioner", models / "blip2", "--generator", models / "sd")
    assert (
        run(monkeypatch, "synth", "run", IMAGES, *noise, *SMALL, *SHORT, "--clip", models / "clip", "--out", out) == 0
    )
    assert len({row.prompt for row in SyntheticTable.open(out).rows}) <= 10
    tiny_run = ("--size", "16", "--steps", "2", "--batch-size", "4", "--backbone", "small-cnn", "--json")

    def trained(name: str, *words: object, method: str = "simclr") -> str:
        capsys.readouterr()
        assert run(monkeypatch, "pretrain", method, IMAGES, "--out", tmp_path / name, *tiny_run, *words) == 0
        return json.loads(capsys.readouterr().out)["weights"]

    synthetic = ("--pairs", "synthetic", "--synthetic", out)
    plain = trained("plain")
    assert trained("e", *synthetic, "--mode", "e") == plain  # to the bit
    others = {trained(mode, *synthetic, "--mode", mode) for mode in ("a", "d", "mix", "direct")}
    assert len(others | {plain}) == 5
    found = ("--similarity", tmp_path / "s-similarity.zarr", "--min-similarity", "1")
    assert trained("replaced", *synthetic, "--mode", "f", *found) == plain  # none is good enough
    many = ("--mode", "direct", "--direct-views", "2")
    assert trained("multi", *synthetic, *many, method="stablerep") not in others
    assert trained("adainf", "--pairs", "adainf", "--generated", out, "--real-copies", "2") not in others
    assert len(open_source(out)) == 20


def test_masks_reach_a_controlnet_and_guidance_is_compared(models, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.zarr"
    words = ("--visual", "mixing", "--panoptic", models / "panoptic", "--controlnet", models / "net")
    step = ("synth", "run", IMAGES, "--captioner", models / "blip2", "--generator", models / "sd", *words)
    assert run(monkeypatch, *step, *SMALL, *SHORT, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["artifacts"]) == {"captions", "maps", "synthetic"}
    step = ("synth", "similarity", out, IMAGES, "--model", models / "clip", "--detector", "saliency")
    assert run(monkeypatch, *step, "--out", tmp_path / "sim.zarr", "--json") == 0
    agreement = json.loads(capsys.readouterr().out)["guidance_agreement"]
    assert agreement["images"] + agreement["empty"] == 10
    assert 0 <= agreement["overlap"] <= 1
    assert run(monkeypatch, *step, "--out", tmp_path / "sim.zarr") == 0
    assert "normal fit" in capsys.readouterr().out


class Sure(torch.nn.Module):
    """An exported panoptic model: red is the first label, green the second, blue the third."""

    def forward(self, images):
        masks = (images - 127.5) / 10
        return 12.0 * torch.eye(4).expand(images.shape[0], 4, 4), torch.cat([masks, -9 - 0 * masks[:, :1]], 1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch advises other formats
def test_an_exported_panoptic_model_is_named_with_its_labels(tmp_path, monkeypatch, capsys):
    torch.jit.trace(Sure(), torch.zeros(2, 3, 8, 8)).save(str(tmp_path / "yoso.pt"))
    (tmp_path / "labels.json").write_text(json.dumps(["sky", "tree", "my car"]))
    step = ("synth", "segment", IMAGES, "--model", tmp_path / "yoso.pt", "--labels", tmp_path / "labels.json", "--json")
    assert run(monkeypatch, *step, "--out", tmp_path / "m.zarr") == 1
    assert "my car" in capsys.readouterr().err
    own = ("--label-of", "my car=car", "--segment-side", "24")
    assert run(monkeypatch, *step, *own, "--out", tmp_path / "m.zarr") == 0
    assert json.loads(capsys.readouterr().out)["maps"] == 10
    source, table = open_source(IMAGES), MapTable.open(tmp_path / "m.zarr")
    found = {int(c) for i in range(10) for c in np.unique(table.classes(source.key(i)))}
    assert found & {class_of("sky"), class_of("tree"), class_of("car")}
    assert found <= {class_of("sky"), class_of("tree"), class_of("car"), UNLABELLED}


class Parrot(BaseHTTPRequestHandler):
    """A server with chat completions that says the last line of what it is asked, as a sentence."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][0]["content"].splitlines()[-1].removesuffix(" →")
        message = {"content": f"Said: {text}."}
        data = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_captions_are_rewritten_by_a_server_whose_answers_are_kept(models, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # this one has a network: its own
    step = ("synth", "caption", "scenes:train?items=4", "--model", models / "blip2", "--caption-tokens", "5")
    assert run(monkeypatch, *step, "--out", tmp_path / "c.zarr") == 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        asked = ("--model", "tiny", "--endpoint", f"http://127.0.0.1:{server.server_address[1]}", "--n-sem", "2")
        step = ("synth", "rewrite", tmp_path / "c.zarr", *asked, "--json")
        capsys.readouterr()
        assert run(monkeypatch, *step, "--out", tmp_path / "p.zarr") == 0
    finally:
        server.shutdown()
        server.server_close()
    examples = json.loads(capsys.readouterr().out)["examples"]
    assert all(text.startswith("Said") for texts in examples.values() for text in texts)
    assert len((tmp_path / "p-answers.jsonl").read_text().splitlines()) == 8
    assert run(monkeypatch, *step, "--overwrite", "--out", tmp_path / "p.zarr") == 0  # nobody is asked again
    assert json.loads(capsys.readouterr().out)["examples"] == examples


@pytest.mark.slow
def test_one_model_is_in_memory_at_a_time_unless_they_are_to_be_kept(models, tmp_path, monkeypatch, capsys):
    from semaug.prompt_synthesis.parts import Models

    counts: list[int] = []
    take = Models.take

    def counted(self, part):
        model = take(self, part)
        counts.append(len(self))
        return model

    monkeypatch.setattr(Models, "take", counted)
    for words, most in (((), 1), (("--keep-loaded",), 4)):
        counts.clear()
        assert run(monkeypatch, *whole(models, tmp_path / f"{most}.zarr"), *words) == 0
        assert max(counts) == most
    assert Artifact.open(tmp_path / "1.zarr").digest == Artifact.open(tmp_path / "4.zarr").digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--captioner", "MODELS/nowhere"), "there is no folder"),
        (("--captioner", "MODELS/llama"), "expected blip-2"),
        (("--captioner", "MODELS/blip2", "--n-sem", "1"), "needs prompts; give a rewriter"),
        (("--captioner", "MODELS/blip2", "--visual", "mask", "--controlnet", "MODELS/net"), "needs mask maps"),
        (("--captioner", "MODELS/blip2", "--n-vp", "1"), "nothing to vary"),
        (("--captioner", "MODELS/blip2", "--clip", "MODELS/llama"), "give a CLIP model"),
        ((), "needs captions; give a captioner"),
    ],
)  # fmt: skip
def test_what_a_later_stage_lacks_is_one_line_before_the_first(models, tmp_path, monkeypatch, capsys, words, said):
    words = tuple(word.replace("MODELS", str(models)) for word in words)
    step = ("synth", "run", IMAGES, "--generator", models / "sd", *SMALL, *SHORT, *words)
    assert run(monkeypatch, *step, "--out", tmp_path / "s.zarr") == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert said in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def semaug(*words: object) -> subprocess.CompletedProcess[str]:
    """``semaug WORDS`` in a process of its own, with one thread."""
    command = [sys.executable, "-c", "from semaug.cli.main import main; main()", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_every_stage_on_ray_and_on_several_devices_writes_what_one_process_does(models, tmp_path):
    plain = semaug(*whole(models, tmp_path / "plain.zarr"))
    assert plain.returncode == 0, plain.stderr
    for name, words in (
        ("ray", ("--engine", "ray", "--workers", "2")),
        ("devices", ("--device", "cpu,cpu:0")),
    ):
        done = semaug(*whole(models, tmp_path / f"{name}.zarr"), *words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == plain.stderr == ""
        for stage in ("-captions", "-prompts", "", "-similarity"):
            ours, theirs = (Artifact.open(tmp_path / f"{stem}{stage}.zarr") for stem in (name, "plain"))
            assert ours.digest == theirs.digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cuda:7,cpu"), "--device cuda:7 is not here: PyTorch sees"),
        (("--device", "cuda:0", "--engine", "ray"), "give --device cuda"),
        (("--device", ","), "names no device"),
        (("--gpus-per-actor", "1"), "--gpus-per-actor belongs to --engine ray"),
        (("--ray-address", "auto"), "--ray-address belongs to --engine ray"),
    ],
)
def test_devices_and_engines_that_do_not_fit_are_usage_errors(models, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr(console, "_CURRENT", console.RunSettings())
    step = ("synth", "caption", IMAGES, "--model", models / "blip2", "--out", tmp_path / "c.zarr")
    assert run(monkeypatch, *step, *words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400k", "none", place], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # artifacts may still be mapped


def test_a_disk_that_is_really_full_loses_nothing(models, tmp_path, small_disk, monkeypatch, capsys):
    assert run(monkeypatch, *whole(models, tmp_path / "s.zarr")) == 0
    out = small_disk / "s.zarr"
    capsys.readouterr()
    assert run(monkeypatch, *whole(models, out)) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no space left while writing" in told
    assert "it resumes" in told
    done = sorted(small_disk.glob("*/ledger/*.json"))
    assert done
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    before = {path: path.stat().st_mtime_ns for path in done}
    assert run(monkeypatch, *whole(models, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == before  # what was done is not done again
    for stage in ("-captions", "-prompts", "", "-similarity"):
        ours, theirs = (Artifact.open(folder / f"s{stage}.zarr") for folder in (small_disk, tmp_path))
        assert ours.digest == theirs.digest
    assert not list(small_disk.rglob("*.partial"))


@pytest.mark.slow
def test_kills_at_any_stage_leave_the_undisturbed_digest(models, tmp_path, monkeypatch):
    assert run(monkeypatch, *whole(models, tmp_path / "whole.zarr")) == 0
    out, killed = tmp_path / "s.zarr", 0
    command = [sys.executable, "-c", "from semaug.cli.main import main; main()", *map(str, whole(models, out))]
    stages = [tmp_path / f"s-{name}.zarr" for name in ("captions", "prompts")] + [out, tmp_path / "s-similarity.zarr"]
    for stage in stages:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
        while process.poll() is None and not list(stage.glob("ledger/*.json")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    assert killed >= 3
    assert run(monkeypatch, *whole(models, out)) == 0
    for name in ("-captions", "-prompts", "", "-similarity"):
        ours, theirs = (Artifact.open(tmp_path / f"{stem}{name}.zarr") for stem in ("s", "whole"))
        assert ours.digest == theirs.digest
    assert not list(tmp_path.rglob("*.partial"))
