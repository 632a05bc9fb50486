"""Files that others made: nothing in them runs, and what they name stays within where it belongs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.guidance_table import guidance_columns
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import read_manifest
from semaug.artifacts.schemas import Guidance, Manifest
from semaug.artifacts.sources import open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.testing import write_image_folder

Semaug = Callable[..., Any]
OUTSIDE = ("../../stray.png", "/tmp/semaug-stray.png", "cat/../../../stray.png")


class Bomb:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The folder that a bomb makes: it is to stay away."""
    return tmp_path / "boom"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("photos"), 4, side=32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An encoder that was not trained."""
    from semaug.ssl_methods import build_encoder, save_encoder

    save_encoder(tmp_path / "run", build_encoder("small-cnn", input_size=16), method="none", seed=0, steps=0)
    return tmp_path / "run"


def bomb_file(folder: Path, name: str, mark: Path) -> Path:
    """A bomb as what each ending is: an archive of torch, an object array, a plain pickle."""
    import torch

    path = folder / name
    if name.endswith((".pt", ".pth", ".ckpt")):
        torch.save({"state_dict": {"a": torch.zeros(1)}, "model": Bomb(mark)}, path)
    elif name.endswith(".npy"):
        np.save(path, np.array([Bomb(mark)], object), allow_pickle=True)
    elif name.endswith(".npz"):
        np.savez(path, a=np.array([Bomb(mark)], object))
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    return path


def test_a_bomb_goes_off_where_it_is_loaded(tmp_path: Path, mark: Path) -> None:
    """Else the tests below would show nothing."""
    import torch

    torch.load(bomb_file(tmp_path, "a.pt", mark), weights_only=False)
    assert mark.is_dir()
    mark.rmdir()
    np.load(bomb_file(tmp_path, "a.npy", mark), allow_pickle=True)
    assert mark.is_dir()


WEIGHTS: Sequence[tuple[str, ...]] = (
    ("pretrain", "simclr", "IMAGES", "--init", "bomb.pth"),
    ("pretrain", "simclr", "IMAGES", "--init", "bomb.ckpt"),
    ("pretrain", "simclr", "IMAGES", "--init", "bomb.safetensors"),
    ("guide", "extract", "IMAGES", "--detector", "yolo", "--detector-option", "weights=bomb.pt"),
    ("guide", "extract", "IMAGES", "--detector", "yolo", "--detector-option", "weights=bomb.torchscript"),
    ("guide", "extract", "IMAGES", "--detector", "yolo", "--detector-option", "weights=bomb.engine"),
    (
        "guide",
        "extract",
        "IMAGES",
        "--granularity",
        "pixel",
        "--segmenter",
        "sam",
        "--segmenter-option",
        "weights=bomb.pth",
    ),
    (
        "guide",
        "extract",
        "IMAGES",
        "--granularity",
        "pixel",
        "--segmenter",
        "sam-hf",
        "--segmenter-option",
        "weights=FOLDER",
    ),
    ("synth", "segment", "IMAGES", "--model", "bomb.pt"),
    ("synth", "segment", "IMAGES", "--model", "bomb.onnx"),
    ("synth", "caption", "IMAGES", "--model", "FOLDER"),
    ("synth", "run", "IMAGES", "--captioner", "FOLDER", "--generator", "FOLDER"),
    ("pairs", "propose", "IMAGES", "--weights", "bomb.pt"),
)
TABLES: Sequence[tuple[str, ...]] = (
    *(("diffaug", "train", f"bomb.{kind}") for kind in ("npy", "npz", "h5ad", "csv", "parquet")),
    *(("data", "pack", f"bomb.{kind}") for kind in ("csv", "parquet")),
    ("pairs", "import", "bomb.csv"),
    ("pairs", "build", "bomb.jsonl"),
    ("guide", "import", "bomb.json", "IMAGES"),
)


def names_of(words: Sequence[str]) -> list[str]:
    return [word.rpartition("=")[2] for word in words if "bomb." in word]


@pytest.mark.parametrize("words", [*WEIGHTS, *TABLES], ids=lambda words: "-".join(words[:2] + words[-1:]))
def test_no_verb_loads_a_pickle(semaug: Semaug, photos: Path, tmp_path: Path, mark: Path, words, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam", "architectures": ["SamModel"]}')
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for name in ("pytorch_model.bin", "model.pt", "preprocessor_config.pkl"):
        bomb_file(folder, name, mark)
    for name in names_of(words):
        bomb_file(tmp_path, name, mark)
    given = [w.replace("IMAGES", str(photos)).replace("FOLDER", str(folder)) for w in words]
    opened = watched(tmp_path)
    done = semaug(*given, "--out", tmp_path / "out.zarr")
    assert not mark.exists()
    assert done.code in (1, 2), done.out
    told = [name for name in (*names_of(words), str(folder)) if name in done.err or name in opened]
    assert told, f"it came as far as the file: {done.err}"
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err, done.err


_OPENED: list[str] = []


def watched(folder: Path) -> list[str]:
    """The names below a folder that are opened from now on."""
    import sys

    if not _OPENED:
        _OPENED.append("")
        sys.addaudithook(lambda event, args: _OPENED.append(str(args[0])) if event == "open" else None)
    del _OPENED[1:]
    return _OPENED


@pytest.mark.parametrize("verb", ["resume", "evaluate", "embed"])
def test_a_checkpoint_in_a_run_is_not_unpickled(semaug: Semaug, photos, run, tmp_path, mark, verb) -> None:
    import torch

    if verb == "resume":
        words = ("pretrain", "simclr", photos, "--steps", "4", "--batch-size", "2", "--size", "16", "--backbone")
        words += ("small-cnn", "--out", tmp_path / "trained", "--checkpoint-every", "1")
        assert semaug(*words).code == 0
        for name in ("encoder.json", "encoder.safetensors"):
            (tmp_path / "trained" / name).unlink()
        torch.save({"epoch": 0, "state_dict": {}, "x": Bomb(mark)}, tmp_path / "trained" / "last.ckpt")
        done = semaug(*words)
        assert "could run code" in done.err
    else:
        (run / "encoder.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
        verbs = {
            "evaluate": ("knn", run, "--train", photos, "--test", photos),
            "embed": ("embed", run, "--images", photos),
        }
        done = semaug("eval", *verbs[verb], "--out", tmp_path / "e")
    assert (done.code, mark.exists()) == (1, False), done.err


def test_a_yaml_of_ultralytics_is_not_evaluated(semaug: Semaug, photos, tmp_path, mark) -> None:
    from safetensors.torch import save_file

    pytest.importorskip("ultralytics")
    save_file({}, tmp_path / "w.safetensors")
    (tmp_path / "yolov8n.yaml").write_text(
        f"nc: 1\nactivation: __import__('os').mkdir({str(mark)!r})\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\n"
        "head: [[[0], 1, Detect, [nc]]]\n"
    )
    options = ("--detector-option", f"weights={tmp_path / 'w.safetensors'}")
    options += ("--detector-option", f"model={tmp_path / 'yolov8n.yaml'}")
    done = semaug("guide", "extract", photos, "--granularity", "object", "--detector", "yolo", *options, "--out",
                  tmp_path / "g.zarr")  # fmt: skip
    assert (done.code, mark.exists()) == (1, False), done.err
    assert "unsupported activation" in done.err


def test_a_torchscript_program_that_writes_is_not_run(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "save", torch.serialization.save)  # ultralytics lays its own over it

    from semaug.artifacts.errors import InvalidOption
    from semaug.prompt_synthesis.exported_panoptic import open_exported

    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "stray")
            return x

    path = tmp_path / "m.pt"
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(Writes()), str(path))
    with pytest.raises(InvalidOption, match=r"calls '\.save', which reaches beyond computing"):
        open_exported(path)
    flat = tmp_path / "flat.pt"
    flat.write_bytes(b"....PTMF" + path.read_bytes())  # an archive behind the head of another form
    with pytest.raises(InvalidOption, match="no TorchScript file"):
        open_exported(flat)


def test_torchvisions_sets_that_unpickle_are_refused(semaug: Semaug, tmp_path: Path) -> None:
    done = semaug("data", "info", f"torchvision:LSUN?root={tmp_path}&split=train")
    assert done.refuses("LSUN", "could run code")


def test_a_manifest_runs_no_code(tmp_path: Path, mark: Path) -> None:
    """An oracle that a file names is one that is installed, never `module:attribute`."""
    from semaug.artifacts.errors import InvalidOption
    from semaug.oracles.catalogue import OracleSpec

    named = OracleSpec.parse(f"os:mkdir?path={mark}")
    with pytest.raises(InvalidOption, match="code is not run because a file says so"):
        named.require_installed("g.zarr")
    assert OracleSpec.parse("saliency?side=64").require_installed("g.zarr").name == "saliency"


def test_a_preset_runs_no_code_and_names_no_place(semaug: Semaug, tmp_path: Path, mark: Path) -> None:
    from semaug.artifacts.errors import InvalidOption
    from semaug.studies.study.catalogue import open_preset, read_preset
    from semaug.studies.study.guidance_makers import _oracle
    from semaug.studies.study.kind_training import slug
    from semaug.studies.study.makers import Making

    making = Making("scenes:train", tmp_path, "boxes", {"detector": f"os:mkdir?path={mark}"})
    with pytest.raises(InvalidOption, match="artifact 'boxes' of the preset names the oracle"):
        _oracle(making, "detector", "saliency")
    table = open_preset("sdi-table-1").model_dump(exclude_unset=True)
    for field in ("artifacts", "data", "measurements"):
        for name in ("../x", "/x", "..", ".hidden", "a/b", "a\0"):
            with pytest.raises(InvalidOption, match=field):
                read_preset({**table, field: {name: {"kind": "index", "wants": ""}}})
    assert [slug(name) for name in ("..", ".", "../../x")] == ["all", "all", "..-..-x"]


@pytest.fixture
def guidance(tmp_path: Path) -> Callable[[str], Path]:
    """Guidance of one image with any key."""

    def make(key: str) -> Path:
        row = Guidance(key, 32, 32, boxes=np.array([[1, 1, 9, 9]], np.float32))
        return written(tmp_path / "g.zarr", "guidance", guidance_columns([row]))

    return make


def written(path: Path, kind: Any, columns: Any, **info: Any) -> Path:
    """An artifact of one item, with whatever columns somebody wants it to have."""
    manifest = Manifest(kind=kind, items=1, shard_size=1, info=info, inputs={"source": "x"})
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, columns)
        writer.finish()
    return path


@pytest.mark.parametrize("key", OUTSIDE)
def test_no_key_writes_outside_of_an_export(semaug: Semaug, guidance, tmp_path: Path, key: str) -> None:
    out = tmp_path / "a" / "b" / "labels"
    done = semaug("guide", "export", guidance(key), "--format", "yolo", "--out", out)
    assert done.refuses("leads out of", key.rpartition(".")[0])
    assert not list(tmp_path.rglob("stray*"))
    assert not Path("/tmp/semaug-stray.txt").exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_artifact_reads_outside_of_its_folder(semaug: Semaug, photos, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "a" / "b"
    shutil.copy(next(photos.rglob("*.png")), tmp_path / "stray.png")
    columns = {**pack_strings("key", ["k"]), **pack_strings("file", [name]), "label": np.array([-1], np.int32)}
    columns |= pack_strings("file_hash", ["00"])
    written(inner / "metadata.zarr", "materialized", columns)
    assert semaug("data", "pack", inner, "--out", tmp_path / "p.zarr").refuses("not below its folder")
    said = semaug("data", "verify", inner)
    assert (said.code, "not below" in said.out + said.err) == (1, True)
    index = {**columns, "content_hash": np.zeros((1, 16), np.uint8), "size": np.zeros((1, 2), np.int32)}
    index |= {"file_bytes": np.array([1], np.int64)}
    path = written(tmp_path / "index.zarr", "index", index, root=str(inner), fingerprint="f", spec="x")
    assert semaug("data", "pack", path, "--out", tmp_path / "q.zarr").refuses("not below its folder")


def test_a_column_of_objects_is_not_taken_for_addresses(semaug: Semaug, photos, tmp_path: Path) -> None:
    pack = tmp_path / "p.zarr"
    assert semaug("data", "pack", photos, "--out", pack).code == 0
    meta = next(pack.glob("shards/*/key_offsets/zarr.json"))
    table = json.loads(meta.read_text())
    meta.write_text(json.dumps({**table, "data_type": "object"}))
    assert semaug("quality", "score", pack, "--out", tmp_path / "q.zarr").refuses("damaged")
    assert read_manifest(pack).kind == "images"


def test_annotations_name_images_of_their_folder_alone(tmp_path: Path, photos: Path) -> None:
    from semaug.eval.detection.coco import read_coco
    from semaug.eval.detection.data import DetectionDataError

    shutil.copy(next(photos.rglob("*.png")), tmp_path / "stray.png")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in (*OUTSIDE, str(tmp_path / "stray.png")):
        image = {"id": 1, "file_name": name, "height": 32, "width": 32}
        file = tmp_path / "boxes.json"
        file.write_text(json.dumps({"images": [image], "categories": [], "annotations": []}))
        with pytest.raises(DetectionDataError, match="is not in"):
            read_coco("x", file, tmp_path / "a" / "b", outlines=False)


def test_class_names_make_folders_within_out(tmp_path: Path) -> None:
    from semaug.pairs_dataset.materialize import file_names

    class Named:
        class_names = ("..", "a/../../b", ".")
        spec = "x"

        def __len__(self) -> int:
            return 3

        def key(self, index: int) -> str:
            return ("../../x.png", "..", "c/.png")[index]

        def label(self, index: int) -> int:
            return index

    for name in file_names(Named()):  # type: ignore[arg-type]
        assert (tmp_path / name).resolve().parent.parent == tmp_path.resolve(), name


def test_cells_of_a_data_set_name_files_of_it_alone(photos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from semaug.artifacts.errors import UnreadableImage
    from semaug.artifacts.sources.huggingface import HuggingFaceSource

    stray = next(photos.rglob("*.png"))
    cells = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(stray)}]})
    source = HuggingFaceSource("hf:x", "train", cells, "image", None, [tmp_path])
    with pytest.raises(UnreadableImage, match="a file outside the data set"):
        source.read(0)
    assert HuggingFaceSource("hf:x", "train", cells, "image", None, [photos]).read(0).shape == (32, 32, 3)


def test_links_in_an_image_folder_are_followed(semaug: Semaug, photos, tmp_path: Path) -> None:
    """As docs/guide/safety.md says: whoever names a folder to read means what it leads to."""
    (tmp_path / "farm" / "cat").mkdir(parents=True)
    (tmp_path / "farm" / "cat" / "linked.png").symlink_to(next(photos.rglob("*.png")))
    assert open_source(tmp_path / "farm").read(0).shape == (32, 32, 3)
