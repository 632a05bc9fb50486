"""Each package installs and passes its own tests alone, so an undeclared dependency cannot hide."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = sorted(p.parent for p in REPOSITORY.glob("packages/*/pyproject.toml"))
REFERENCES = [
    "pytest",
    "hypothesis",
    "scipy",
    "opencv-python-headless",
    "lightly",
    "onnx",
    "onnxruntime",
    "torchvision",
]
"""What tests compare with; never imported by the packages themselves unless they declare it."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_package_stands_alone(package):
    name = f"semaug-{package.name}"
    words = ["uv", "run", "--isolated", "--no-default-groups", "--all-extras", "--package", name]
    declared = (package / "pyproject.toml").read_text()
    added = [reference for reference in REFERENCES if f'"{reference}>=' not in declared]
    words += [w for reference in added for w in ("--with", reference)]
    done = subprocess.run(
        [*words, "pytest", "-q", f"packages/{package.name}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
