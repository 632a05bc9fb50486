"""Verbs of every group carried out in one process, on tiny images and tiny models of the real classes.

``python tests/every_verb.py FOLDER [--offline] [--no-ray]`` prints one line of JSON a verb: its words, its exit code
and what it said where it failed. ``test_safety_network.py`` watches it from outside.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

Words = tuple[object, ...]
TRAINING: Words = ("--steps", "2", "--batch-size", "4", "--size", "16", "--backbone", "small-cnn")
LITTLE: Words = ("--steps", "2", "--batch-size", "8")


def save_models(folder: Path) -> None:
    """Random models of a few kilobytes: captioner, rewriter, generator, segmenter, and a detector's weights."""
    from semaug.artifacts.network import forbid_telemetry

    forbid_telemetry()  # these libraries are imported here before any verb is
    import torch

    from semaug.oracles.yolo import import_yolo
    from semaug.prompt_synthesis import tiny_diffusion_models as tiny
    from semaug.prompt_synthesis.tiny_language_models import save_blip2, save_llama
    from semaug.prompt_synthesis.tiny_panoptic_models import save_mask2former

    torch.manual_seed(0)
    save_blip2(folder / "blip2")
    save_llama(folder / "llama")
    tiny.save_stable_diffusion(folder / "sd")
    save_mask2former(folder / "panoptic")
    import_yolo()("yolov8n.yaml", task="detect", verbose=False).save(str(folder / "yolo.pt"))


def save_cells(path: Path) -> Path:
    """A table of thirty cells of two kinds."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = ["a,b,c,kind"] + [",".join([*(f"{v:.3f}" for v in rng.normal(size=3)), "bt"[i % 2]]) for i in range(30)]
    path.write_text("\n".join(rows) + "\n")
    return path


def save_pairs(path: Path, images: Path) -> Path:
    """A list of pairs within each class."""
    lines = ["class,image_a,image_b"]
    for kind in ("cat", "dog"):
        names = sorted(f"{kind}/{p.name}" for p in (images / kind).iterdir())
        lines += [f"{kind},{a},{b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def artifacts(f: Path, images: Path) -> Iterator[Words]:
    """Images to artifacts."""
    guidance = f / "guidance.zarr"
    yield "doctor", "--json"
    yield "data", "index", images, "--out", f / "index.zarr"
    yield "data", "pack", images, "--out", f / "pack.zarr", "--workers", "2"
    yield "data", "info", f / "pack.zarr"
    yield "data", "verify", f / "pack.zarr"
    yield "quality", "score", images, "--out", f / "quality.zarr"
    yield "quality", "report", f / "quality.zarr"
    yield "guide", "extract", images, "--quality", f / "quality.zarr", "--out", guidance
    yield "guide", "extract", images, "--granularity", "object", "--engine", "ray", "--out", f / "by-ray.zarr"
    yolo = ("--detector", "yolo", "--detector-option", f"weights={f / 'yolo.pt'}", "--detector-option", "imgsz=64")
    yield "guide", "extract", images, "--granularity", "object", *yolo, "--out", f / "by-yolo.zarr"
    yield "guide", "export", guidance, "--out", f / "boxes.json"
    yield "guide", "import", f / "boxes.json", images, "--out", f / "imported.zarr"
    yield "guide", "show", guidance, images, "--out", f / "sheet.png"
    yield "views", "materialize", images, "--guidance", guidance, "--out", f / "sdi"
    yield "views", "show", images, "--guidance", guidance, "--size", "32", "--out", f / "views.png"


def pairs(f: Path, images: Path) -> Iterator[Words]:
    """Pairs, synthetic images and learned augmentation."""
    listed = save_pairs(f / "list.csv", images)
    yield "pairs", "propose", images, "--out", f / "proposals.zarr"
    yield "pairs", "import", listed, "--images", images, "--out", f / "pairs.zarr"
    yield "pairs", "check", f / "pairs.zarr", "--images", images, "--per-class", "0"
    yield "pairs", "export", f / "pairs.zarr", "--out", f / "pairs.jsonl"
    models = ("--captioner", f / "blip2", "--rewriter", f / "llama", "--generator", f / "sd")
    short = ("--size", "32", "--steps", "2", "--guidance", "1", "--caption-tokens", "5", "--rewrite-tokens", "5")
    yield (
        "synth",
        "run",
        images,
        *models,
        *short,
        "--n-sem",
        "1",
        "--n-vp",
        "1",
        "--vary",
        "crop",
        "--out",
        f / "synthetic.zarr",
    )
    yield "synth", "segment", images, "--model", f / "panoptic", "--out", f / "maps.zarr"
    cells = f"{save_cells(f / 'cells.csv')}?label=kind"
    yield "diffaug", "train", cells, "--out", f / "diffaug", *LITTLE
    yield "diffaug", "augment", cells, f / "diffaug", "--k", "2", "--out", f / "augment.zarr"
    yield "diffaug", "embed", cells, f / "diffaug", "--out", f / "embedding.csv"


def training(f: Path, images: Path) -> Iterator[Words]:
    """Training, evaluation and a study."""
    run, sets = f / "run", ("--train", images, "--test", images)
    guided = ("--pairs", "guided", "--guidance", f / "guidance.zarr")
    yield "pretrain", "simclr", images, *guided, *TRAINING, "--out", run
    yield "pretrain", "export", run, "--format", "onnx", "--out", f / "encoder.onnx"
    yield "eval", "embed", run, "--images", images, "--out", f / "features.zarr"
    yield "eval", "knn", run, *sets
    yield "eval", "linear", run, *sets
    yield "eval", "finetune", run, *sets, "--epochs", "1", "--lr", "0.01"
    yield "eval", "geometry", run, "--images", images
    yield "study", "list"
    yield "study", "run", "sdi-table-1", "--scale", "tiny", "--out", f / "study"


def carry_out(words: Words) -> dict[str, object]:
    """One command line."""
    from semaug.cli import console
    from semaug.cli.main import main

    console._CURRENT = console.RunSettings()
    sys.argv = ["semaug", *map(str, words)]
    said = io.StringIO()
    code: object = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return {"verb": " ".join(map(str, words[:2])), "code": code, "said": said.getvalue()[-400:] if code else ""}


def run_all(folder: Path, offline: bool, ray: bool = True) -> None:
    """Print what each verb came to."""
    from semaug.artifacts.testing import write_image_folder

    os.chdir(folder)
    images = write_image_folder(folder / "images", 12, side=32)
    save_models(folder)
    for part in (artifacts, pairs, training):
        for words in part(folder, images):
            if "ray" in words and not ray:
                continue
            done = carry_out((*words, "--offline") if offline else words)
            print(json.dumps(done), flush=True)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]).resolve(), "--offline" in sys.argv, "--no-ray" not in sys.argv)
