"""The doctor in fabricated surroundings: nothing installed, all installed, and installed but broken."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from semaug.studies.doctor import Surroundings, diagnose, system
from semaug.studies.doctor.capabilities import (
    DETECTORS,
    GROUPS,
    OTHERS,
    SEGMENTERS,
    SYNTHESIS,
    examine_capabilities,
    examine_methods,
    examine_plugins,
)
from semaug.studies.doctor.data_sets import MARKERS, examine_data_sets, find_data_sets
from semaug.studies.doctor.packages import (
    CORE,
    EXTRAS,
    examine_extras,
    examine_imports,
    examine_packages,
    module_of,
)
from semaug.studies.doctor.studies import StudyState, examine_studies
from semaug.studies.doctor.system import examine_devices, examine_disk, examine_numba
from semaug.studies.doctor.weights import Model, find_models, looked_into

METADATA = {
    "semaug": ['semaug-oracles[yolo]; extra == "yolo"', "click>=8.1"],
    "semaug-oracles": ["numpy>=2", 'ultralytics>=8.3; extra == "yolo"', 'colorama; sys_platform == "win32"'],
}
VERSIONS = dict.fromkeys(("semaug", *CORE), "0.1.0") | {"numpy": "2.4.1", "click": "8.2.0"}


def fabricated(tmp_path: Path, versions=VERSIONS, gone=(), plugins=None, environ=None, **more) -> Surroundings:
    def module(name: str) -> Path | None:
        known = {module_of(d) for d in versions}
        return tmp_path if name in known and name not in gone else None

    return Surroundings(
        version=versions.get,
        requirements=lambda name: METADATA.get(name, ()),
        module=module,
        plugins=lambda group: (plugins or {}).get(group, {}),
        environ=environ or {},
        home=tmp_path / "home",
        cwd=tmp_path,
        temporary=tmp_path,
        **more,
    )


def by_name(findings):
    return {f.name: f for f in findings}


def test_a_sound_installation_is_one_line_a_kind(tmp_path):
    found = by_name(examine_packages(fabricated(tmp_path)))
    assert {f.state for f in found.values()} == {"ok"}
    assert "0.1.0; 10 packages" in found["semaug"].detail
    assert found["libraries"].detail.startswith("2 required")  # numpy and click; colorama is of another system


def test_a_library_that_is_too_old_is_broken_and_the_remedy_names_the_version(tmp_path):
    found = by_name(examine_packages(fabricated(tmp_path, VERSIONS | {"numpy": "1.26.4"})))
    assert found["numpy"].state == "broken"
    assert found["numpy"].detail == "is 1.26.4, and semaug-oracles needs >=2"
    assert found["numpy"].remedy == "pip install 'numpy>=2'"
    assert "libraries" not in found


def test_a_library_whose_files_are_gone_is_broken(tmp_path):
    found = by_name(examine_packages(fabricated(tmp_path, gone=("numpy",))))
    assert found["numpy"].state == "broken"
    assert "numpy is gone" in found["numpy"].detail
    assert "--force-reinstall" in found["numpy"].remedy


def test_a_required_library_that_is_not_installed_is_broken(tmp_path):
    versions = {k: v for k, v in VERSIONS.items() if k != "click"}
    found = by_name(examine_packages(fabricated(tmp_path, versions)))
    assert (found["click"].state, found["click"].remedy) == ("broken", "pip install 'click>=8.1'")


def test_packages_of_several_versions_are_broken(tmp_path):
    found = examine_packages(fabricated(tmp_path, VERSIONS | {"semaug-eval": "0.2.0"}))
    assert found[0].state == "broken"
    assert "semaug-eval 0.2.0" in found[0].detail


def test_a_package_of_semaug_that_is_missing_is_broken(tmp_path):
    versions = {k: v for k, v in VERSIONS.items() if k != "semaug-eval"}
    found = by_name(examine_packages(fabricated(tmp_path, versions)))
    assert found["packages"].remedy == "pip install semaug-eval"


def test_extras_are_off_until_installed_and_the_remedy_is_for_what_is_there(tmp_path):
    off = by_name(examine_extras(fabricated(tmp_path)))["yolo"]
    assert (off.state, off.remedy) == ("off", "pip install 'semaug[yolo]'")
    assert "not installed: ultralytics" in off.detail
    alone = {k: v for k, v in VERSIONS.items() if k != "semaug"}
    assert by_name(examine_extras(fabricated(tmp_path, alone)))["yolo"].remedy == "pip install 'semaug-oracles[yolo]'"
    there = by_name(examine_extras(fabricated(tmp_path, VERSIONS | {"ultralytics": "8.4.0"})))["yolo"]
    assert (there.state, there.facts) == ("ok", {"ultralytics": "8.4.0"})
    old = by_name(examine_extras(fabricated(tmp_path, VERSIONS | {"ultralytics": "8.1.0"})))["yolo"]
    assert (old.state, old.remedy) == ("broken", "pip install 'ultralytics>=8.3'")


def test_the_table_of_extras_is_what_the_distributions_offer():
    """Every extra of the command line is named; every extra named is offered by both distributions of its row."""
    folders = {"semaug": "apps/cli"} | {name: f"packages/{name.removeprefix('semaug-')}" for name in CORE}
    repository = Path(__file__).parents[3]
    offered = {
        name: set(tomllib.loads((repository / folder / "pyproject.toml").read_text())["project"].get(
            "optional-dependencies", {}))
        for name, folder in folders.items()
    }  # fmt: skip
    assert offered["semaug"] <= set(EXTRAS)
    for extra, (first, other, _) in EXTRAS.items():
        assert extra in offered[first], (extra, first)
        assert extra in offered[other], (extra, other)


def test_the_oracles_are_those_of_the_catalogue():
    from semaug.oracles.catalogue import BUILT_IN, ENTRY_POINTS

    named = {c.name for c in (*DETECTORS, *SEGMENTERS)}
    assert named == set(BUILT_IN["detector"]) | set(BUILT_IN["segmenter"])
    assert {v: k for k, v in GROUPS.items()} == dict(ENTRY_POINTS)
    assert {c.extra for c in (*DETECTORS, *SEGMENTERS, *SYNTHESIS, *OTHERS)} - {""} <= set(EXTRAS)


def test_the_data_sets_are_those_that_open_by_name():
    from semaug.artifacts.sources.named import NAMED_SETS

    assert list(MARKERS) == list(NAMED_SETS)


def test_every_marker_is_where_the_reader_looks(tmp_path):
    """A root with nothing but a set's first marker gets its reader past the search for the root's folder."""
    from semaug.artifacts.errors import SemaugError
    from semaug.artifacts.sources import open_source
    from semaug.studies.doctor.data_sets import OPTIONS

    for name, markers in MARKERS.items():
        for number, marker in enumerate(markers):
            root = tmp_path / f"{name}-{number}"
            (root / marker).parent.mkdir(parents=True)
            (root / marker).mkdir() if "." not in Path(marker).name else (root / marker).write_text("x\n")
            with pytest.raises(SemaugError) as refused:
                len(open_source(f"{name}?root={root}{OPTIONS.get(marker, '')}"))
            assert f"in {root}; expected there" not in str(refused.value), (name, marker, refused.value)


def test_data_sets_are_found_in_given_folders_and_beside_the_working_directory(tmp_path):
    (tmp_path / "data" / "cifar-100-python").mkdir(parents=True)
    (tmp_path / "data" / "cifar-100-python" / "meta").touch()
    (tmp_path / "far" / "stl10_binary").mkdir(parents=True)
    (tmp_path / "far" / "stl10_binary" / "train_X.bin").touch()
    (tmp_path / "root" / "dtd" / "dtd" / "labels").mkdir(parents=True)
    around = fabricated(tmp_path, data=(tmp_path / "far",), environ={"SEMAUG_DATA": str(tmp_path / "root")})
    assert find_data_sets(around) == {
        "cifar100": f"cifar100?root={tmp_path / 'data'}",
        "stl10": f"stl10?root={tmp_path / 'far'}",
        "dtd": f"dtd?root={tmp_path / 'root'}",
    }
    shown = by_name(examine_data_sets(around))
    assert shown["cifar100"].detail == f"cifar100?root={tmp_path / 'data'}"
    assert "food101" in shown["others"].detail
    assert "cifar100" not in shown["others"].detail


def saved(folder: Path, config: dict, weights: str = "model.safetensors", name: str = "config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    if weights:
        (folder / weights).parent.mkdir(exist_ok=True)
        (folder / weights).write_bytes(bytes(2000))
    return folder


def test_models_are_told_by_their_files_and_configurations(tmp_path):
    weights = tmp_path / "weights"
    saved(weights / "blip", {"model_type": "blip-2"})
    saved(weights / "deep" / "llama", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    saved(weights / "sd", {"_class_name": "StableDiffusionPipeline"}, "unet/x.safetensors", "model_index.json")
    saved(weights / "net", {"_class_name": "ControlNetModel"})
    saved(weights / "pickled", {"model_type": "clip"}, "pytorch_model.bin")
    saved(weights / "other", {"model_type": "bert", "architectures": ["BertModel"]})
    saved(weights / "pointer", {"model_type": "sam"}).joinpath("model.safetensors").write_text(
        "version https://git-lfs"
    )
    (weights / "yolov8n.pt").write_bytes(bytes(2000))
    (weights / "yolov8m.pt").touch()
    (weights / "sam_vit_b_01ec64.pth").write_bytes(bytes(2000))
    (weights / "notes.txt").touch()
    found = {m.name: m for m in find_models(fabricated(tmp_path))}
    roles = {name: model.role for name, model in found.items()}
    assert roles == {
        "blip": "captioner", "llama": "rewriter", "sd": "generator", "net": "controlnet", "pickled": "similarity",
        "pointer": "sam-hf", "yolov8n.pt": "yolo", "yolov8m.pt": "yolo", "sam_vit_b_01ec64.pth": "sam",
    }  # fmt: skip
    assert "pickled weights only" in found["pickled"].problem
    assert {name for name, model in found.items() if model.problem} == {"pickled", "pointer", "yolov8m.pt"}


@pytest.mark.parametrize("variables", [{"HF_HUB_CACHE": "hub"}, {"HF_HOME": "."}, {"XDG_CACHE_HOME": "cache"}, {}])
def test_the_hub_cache_is_where_the_variables_say(tmp_path, variables):
    places = {"HF_HUB_CACHE": "hub", "HF_HOME": "hub", "XDG_CACHE_HOME": "cache/huggingface/hub"}
    place = places[next(iter(variables))] if variables else "home/.cache/huggingface/hub"
    repository = tmp_path / place / "models--facebook--sam-vit-base"
    saved(repository / "snapshots" / "old", {"model_type": "bert"})
    saved(repository / "snapshots" / "new", {"model_type": "sam"})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("new")
    around = fabricated(tmp_path, environ={k: str(tmp_path / v) for k, v in variables.items()})
    assert find_models(around) == [Model("sam-hf", "facebook/sam-vit-base", "facebook/sam-vit-base")]


def test_an_oracle_needs_its_library_and_its_weights(tmp_path):
    yolo = [c for c in DETECTORS if c.name == "yolo"]
    without = examine_capabilities(fabricated(tmp_path), yolo, [])[0]
    assert (without.state, without.remedy) == ("off", "pip install 'semaug[yolo]'")
    around = fabricated(tmp_path, VERSIONS | {"ultralytics": "8.4.0"})
    no_weights = examine_capabilities(around, yolo, [])[0]
    assert no_weights.state == "off"
    assert "yolov8n.pt" in no_weights.remedy
    ready = examine_capabilities(around, yolo, [Model("yolo", "a.pt", "/w/a.pt"), Model("sam", "b", "/w/b")])[0]
    assert (ready.state, ready.detail) == ("ok", "detector: --detector-option weights=/w/a.pt")
    spoiled = examine_capabilities(around, yolo, [Model("yolo", "a.pt", "/w/a.pt", "no weights")])[0]
    assert (spoiled.state, "/w/a.pt: no weights" in spoiled.detail) == ("off", True)


def test_plugins_are_listed_and_one_without_its_module_is_broken(tmp_path):
    plugins = {"semaug.detectors": {"mine": "numpy:Detector", "lost": "lost_plugin:Detector"}}
    found = by_name(examine_plugins(fabricated(tmp_path, plugins=plugins)))
    assert found["mine"].state == "ok"
    assert found["lost"].state == "broken"
    assert not entry_points(group="semaug.detectors").names & {"mine", "lost"}


def test_the_methods_are_those_of_pretraining():
    from semaug.ssl_methods import METHODS

    assert set(examine_methods(Surroundings()).facts["methods"]) == set(METHODS)


def test_studies_are_counted_by_paper_and_scale(tmp_path):
    studies = [
        StudyState("a", "SDI", "sdi", {"tiny": (), "paper": ("ImageNet-1k: give it",)}),
        StudyState("b", "SDI", "sdi", {"tiny": (), "paper": ()}),
        StudyState("c", "DiffAug", "diffaug", {"tiny": ()}),
    ]
    found = by_name(examine_studies(fabricated(tmp_path, studies=lambda: studies)))
    assert found["SDI"].facts == {"studies": 2, "can_run": {"tiny": 2, "paper": 1}}
    assert "semaug study list --paper sdi" in found["SDI"].remedy
    assert (found["DiffAug"].state, found["DiffAug"].remedy) == ("ok", "")


def test_studies_that_cannot_be_listed_are_broken_and_end_nothing(tmp_path):
    def fail():
        raise ImportError("numpy.core failed")

    found = examine_studies(fabricated(tmp_path, studies=fail))
    assert (found[0].state, "numpy.core failed" in found[0].detail) == ("broken", True)


def test_the_variable_of_data_is_that_of_studies():
    from semaug.studies.doctor import data_sets
    from semaug.studies.study.data import DATA_ROOT

    assert data_sets.DATA_ROOT == DATA_ROOT


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    around = fabricated(tmp_path)
    assert by_name(examine_disk(around))["working directory"].state == "ok"
    assert not list(tmp_path.glob(".semaug-doctor-*"))
    monkeypatch.setattr(system, "writable", lambda folder: False)  # root may write anywhere, so rights cannot be taken
    found = by_name(examine_disk(around))["working directory"]
    assert (found.state, "cannot be written" in found.detail, bool(found.remedy)) == ("off", True, True)
    assert "NUMBA_CACHE_DIR" in examine_numba(around)[0].remedy


def test_little_disk_gets_a_word(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(10, 9, 5 * 10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert by_name(examine_disk(fabricated(tmp_path)))["working directory"].state == "note"


def test_compiled_kernels_are_looked_for_where_numba_keeps_them(tmp_path):
    kept = examine_numba(fabricated(tmp_path, environ={"NUMBA_CACHE_DIR": str(tmp_path / "n")}))[0]
    assert (kept.state, str(tmp_path / "n") in kept.detail) == ("ok", True)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "k.py311.nbi").touch()
    assert examine_numba(fabricated(tmp_path))[0].facts["compiled"] > 0


def fake_torch(monkeypatch, cards=(), built_for=None, mps=False):
    cuda = SimpleNamespace(
        is_available=lambda: bool(cards),
        device_count=lambda: len(cards),
        get_device_properties=lambda i: SimpleNamespace(name=cards[i], total_memory=8 * 10**10, major=9, minor=0),
    )
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
    torch = SimpleNamespace(__version__="2.9", cuda=cuda, backends=backends, version=SimpleNamespace(cuda=built_for))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_gpus_are_named_with_their_memory(tmp_path, monkeypatch):
    fake_torch(monkeypatch, ("H100", "H100"), "12.8")
    found = by_name(examine_devices(fabricated(tmp_path, VERSIONS | {"torch": "2.9"})))
    assert set(found) == {"torch", "cuda:0", "cuda:1"}
    assert found["cuda:1"].detail == "H100, 80.0 GB, compute capability 9.0"


@pytest.mark.parametrize(
    ("built_for", "driver", "said"),
    [
        (None, True, "this torch is built for CPUs"),
        ("12.8", True, "sees no GPU"),
        ("12.8", False, "no NVIDIA GPU"),
    ],
)
def test_why_no_gpu_is_seen(tmp_path, monkeypatch, built_for, driver, said):
    fake_torch(monkeypatch, (), built_for, mps=True)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    found = by_name(examine_devices(fabricated(tmp_path, VERSIONS | {"torch": "2.9"})))
    assert (found["cuda"].state, said in found["cuda"].detail) == ("off", True)
    assert bool(found["cuda"].remedy) == driver
    assert found["mps"].state == "ok"


def test_a_torch_that_cannot_be_imported_is_broken(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ModuleNotFoundError
    found = examine_devices(fabricated(tmp_path, VERSIONS | {"torch": "2.9"}))
    assert [f.state for f in found] == ["broken"]
    assert examine_devices(fabricated(tmp_path))[0].remedy == "pip install torch"


def test_a_container_s_limits_count(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert system._cpu_limit(tmp_path / "cpu.max") == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert system._cpu_limit(tmp_path / "cpu.max") is None
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 40 kB\n")
    assert system._available(tmp_path / "meminfo") == 40 * 1024


def test_imports_that_fail_are_broken_with_the_last_line_of_the_error(tmp_path, monkeypatch):
    (tmp_path / "ultralytics.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    (tmp_path / "numpy.py").write_text("")
    (tmp_path / "click.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = examine_imports(fabricated(tmp_path, VERSIONS | {"ultralytics": "8.4.0"}))
    assert found[0].detail.startswith("2 of 3")
    assert found[1].name == "ultralytics"
    assert "libGL.so.1" in found[1].detail


def test_an_empty_machine_has_a_remedy_for_everything_that_is_off(tmp_path):
    found = diagnose(fabricated(tmp_path), quick=True)
    assert looked_into(fabricated(tmp_path)) == [tmp_path / "models", tmp_path / "weights"]
    for section in found.sections:
        for finding in section.findings:
            assert finding.remedy or finding.state == "ok", finding
    assert json.loads(json.dumps(found.described()))["sections"]["Oracles"][0]["name"] == "saliency"


def test_the_real_machine_is_examined_without_a_heavy_import():
    code = (
        "import sys\nfrom semaug.studies.doctor import diagnose\nfound = diagnose(quick=True)\n"
        "heavy = ('torch', 'numpy', 'numba', 'transformers', 'diffusers', 'sklearn', 'cv2', 'lightning')\n"
        "print([m for m in heavy if m in sys.modules], [f.name for f in found.broken])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
