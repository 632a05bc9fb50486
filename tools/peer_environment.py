"""Environments of their own for peers that ours does not install, made at their first use by uv.

They stand in ``SEMAUG_PEERS`` (else ``~/.cache/semaug/peers``), one folder a peer, with our versions of torch and
torchvision, so that only the code that is compared differs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PEERS = {
    "lightly": ("lightly==1.6.0", "timm==1.0.31", "kornia==0.9.0", "webdataset==1.0.2"),
    "stable-pretraining": ("stable-pretraining==0.1.8",),
}
_SAME = ("torch", "torchvision")


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made or brought up to date first (gigabytes, minutes).

    Raises ``FileNotFoundError`` without uv, ``subprocess.CalledProcessError`` when a package cannot be had.
    """
    wanted = [*PEERS[name], *(f"{package}=={version(package).split('+')[0]}" for package in _SAME)]
    root = Path(os.environ.get("SEMAUG_PEERS") or Path.home() / ".cache" / "semaug" / "peers")
    folder = root / name
    python, done = folder / "bin" / "python", folder / "semaug-requirements.txt"
    if done.exists() and done.read_text("utf-8").split() == wanted:
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise FileNotFoundError(f"no uv to make an environment for {name} with; install it, or leave the peer out")
    print(f"making an environment for {name} in {folder} ...", file=sys.stderr)
    root.mkdir(parents=True, exist_ok=True)
    interpreter = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--no-project", "--python", interpreter, folder], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    done.write_text("\n".join(wanted), "utf-8")
    return python
