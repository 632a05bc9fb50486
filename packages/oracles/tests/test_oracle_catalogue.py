"""The plug-in door: specs, options, modules, files, entry points."""

from __future__ import annotations

import importlib.metadata
import pickle
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.oracles import catalogue
from semaug.oracles.catalogue import BUILT_IN, OracleSpec, accepts, open_detector, open_segmenter
from semaug.oracles.errors import OracleError

PLUGIN = """
import numpy as np

class Half:
    def __init__(self, share: float = 0.5, flip: bool = False):
        self.share, self.flip = share, flip

    def detect(self, images):
        return [np.array([[0, 0, self.share * i.shape[1], i.shape[0]]], np.float32) for i in images]

def factory(path: str):
    return Half(0.25)

instance = Half(0.75)
number = 3
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    return tmp_path / "my_plugin.py"


def width_found(spec: OracleSpec) -> float:
    return float(open_detector(spec).detect([np.zeros((10, 100, 3), np.uint8)])[0][0, 2])  # type: ignore[union-attr]


def test_a_class_a_factory_and_an_instance_of_a_file_all_work(plugin: Path) -> None:
    assert width_found(OracleSpec.parse(f"{plugin}:Half?share=0.3")) == pytest.approx(30)
    assert width_found(OracleSpec.parse(f"{plugin}:factory", ["path=x"])) == 25
    assert width_found(OracleSpec.parse(f"{plugin}:instance")) == 75


def test_a_module_in_the_working_directory_works(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.rename(plugin.with_name("plugin_of_this_folder.py"))
    monkeypatch.chdir(plugin.parent)
    assert width_found(OracleSpec.parse("plugin_of_this_folder:Half")) == 50


def test_an_installed_plugin_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "semaug.oracles.saliency:CentreDetector", "semaug.detectors")

    def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
        return (point,) if group == "semaug.detectors" else ()

    monkeypatch.setattr(catalogue, "entry_points", entry_points)
    assert width_found(OracleSpec.parse("mine?side=0.5")) == 75
    with pytest.raises(InvalidOption, match="unknown segmenter 'mine'"):
        open_segmenter(OracleSpec("mine"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("salience", "did you mean 'saliency'"),
        ("saliency?sides=3", "no option 'sides'; it has side"),
        ("saliency?side=big", "side='big' cannot be used"),
        ("saliency?side", "write option=value"),
        ("yolo", r"needs the option 'weights'; give yolo\?weights="),
        ("no_such_module_anywhere:Half", "is not installed nor in"),
        ("absent.py:Half", "does not exist"),
    ],
)
def test_mistakes_name_the_remedy_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason) as caught:
        open_detector(OracleSpec.parse(text))
    assert "\n" not in str(caught.value)


def test_mistakes_in_a_plugin_are_named(plugin: Path) -> None:
    with pytest.raises(InvalidOption, match="no attribute 'Hal'"):
        open_detector(OracleSpec(f"{plugin}:Hal"))
    with pytest.raises(OracleError, match="is a int, not a detector"):
        open_detector(OracleSpec(f"{plugin}:number"))
    with pytest.raises(OracleError, match=r"Half without segment\(\)"):
        open_segmenter(OracleSpec(f"{plugin}:Half"))
    with pytest.raises(InvalidOption, match="takes no options"):
        open_detector(OracleSpec.parse(f"{plugin}:instance?share=1"))


def test_identity_is_content_not_place(plugin: Path, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt", "c.pt"):
        (tmp_path / name).write_bytes(b"other" if name == "c.pt" else b"same")
    first, second, third = (
        OracleSpec.parse(f"yolo?weights={tmp_path / name}").identity() for name in ("a.pt", "b.pt", "c.pt")
    )
    assert first == second != third
    before = OracleSpec(f"{plugin}:Half").identity()
    assert str(tmp_path) not in str(before)
    plugin.write_text(PLUGIN + "\n# changed")
    assert OracleSpec(f"{plugin}:Half").identity() != before
    assert OracleSpec.parse("yolo?device=cuda").identity() == OracleSpec("yolo").identity()


def test_a_spec_survives_pickling_and_printing() -> None:
    spec = OracleSpec.parse("saliency?side=128", ["passes=2"])
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert OracleSpec.parse(str(spec)) == spec


def test_every_built_in_name_leads_somewhere() -> None:
    for role, names in BUILT_IN.items():
        assert all(callable(catalogue._find(role, name)) for name in names)
    assert accepts("detector", OracleSpec("yolo"), "device")
    assert not accepts("detector", OracleSpec("saliency"), "device")
