"""Python, cores, memory, devices, disk and what may be written."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.surroundings import Surroundings

OLDEST, NEWEST = (3, 11), (3, 13)
LITTLE_DISK, LITTLE_MEMORY = 2e9, 4e9
"""Bytes below which a word is said."""
COMPILED = ("semaug.quality_policy", "semaug.pairs_dataset", "semaug.oracles")
"""Packages with numba kernels, whose compiled code is kept."""


def examine_python() -> list[Finding]:
    """The interpreter and the machine."""
    version = platform.python_version()
    fits = OLDEST <= sys.version_info[:2] <= NEWEST
    python = Finding(
        "Python",
        "ok" if fits else "broken",
        f"{version} at {sys.prefix}",
        "" if fits else f"use Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}",
        {"version": version, "prefix": sys.prefix},
    )
    return [python, Finding("machine", "ok", platform.platform(aliased=True))]


def examine_processor(around: Surroundings) -> list[Finding]:
    """Cores that this process may use, their threads, and memory, limits of a container counted."""
    cores, limit = usable_cores(), _cpu_limit()
    threads = around.environ.get("OMP_NUM_THREADS")
    detail = f"{cores} cores of {os.cpu_count()}" + (f", held to {limit:g} by the container" if limit else "")
    findings = [
        Finding("cores", "ok", detail, facts={"usable": cores, "limit": limit}),
        Finding("threads", "ok", f"OMP_NUM_THREADS={threads}" if threads else "the libraries' own choice"),
    ]
    total, free = memory()
    if total:
        little = (free or total) < LITTLE_MEMORY
        spelled = size(total) + (f", {size(free)} free" if free is not None else "")
        remedy = "fewer --workers, a smaller --batch-size" if little else ""
        findings.append(Finding("memory", "note" if little else "ok", spelled, remedy, {"total": total, "free": free}))
    return findings


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_limit(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def memory() -> tuple[int, int | None]:
    """Bytes of memory and of those free, a container's limit counted; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0, None
    free = _available()
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is None or limit > total:
        return total, free
    used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
    return limit, min(free, limit - used) if free is not None else limit - used


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _available(file: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def size(count: float) -> str:
    """A number of bytes as a person reads it.

    >>> size(1.5e9), size(3.2e13), size(4e6)
    ('1.5 GB', '32,000 GB', '4.0 MB')
    """
    return f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e9:,.{1 if count < 1e11 else 0}f} GB"


def examine_devices(around: Surroundings) -> list[Finding]:
    """The accelerators that torch sees. This imports torch, and says how long that took."""
    if not around.has("torch"):
        return [Finding("torch", "broken", "is not installed", "pip install torch")]
    start = time.perf_counter()
    try:
        import torch
    except Exception as error:  # a torch that does not load fails in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return [Finding("torch", "broken", f"cannot be imported: {reason}", "pip install --force-reinstall torch")]
    seconds = time.perf_counter() - start
    findings = [Finding("torch", "ok", f"{torch.__version__}, imported in {seconds:.1f} s")]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        detail = f"{card.name}, {size(card.total_memory)}, compute capability {card.major}.{card.minor}"
        findings.append(Finding(f"cuda:{index}", "ok", detail, facts={"memory": card.total_memory}))
    if len(findings) == 1:
        findings.append(_no_cuda(torch.version.cuda, shutil.which("nvidia-smi") is not None))
    if torch.backends.mps.is_available():
        findings.append(Finding("mps", "ok", "Apple GPU"))
    return findings


def _no_cuda(built_for: str | None, driver: bool) -> Finding:
    if driver and built_for is None:
        remedy = "install a torch built for CUDA (pytorch.org, Get Started)"
        return Finding("cuda", "off", "nvidia-smi is here, and this torch is built for CPUs", remedy)
    if driver:
        remedy = "compare nvidia-smi's CUDA version with torch's, and see CUDA_VISIBLE_DEVICES"
        return Finding("cuda", "off", f"torch is built for CUDA {built_for} and sees no GPU", remedy)
    return Finding("cuda", "off", "no NVIDIA GPU; everything runs on the CPU", "")


def examine_disk(around: Surroundings) -> list[Finding]:
    """Free space, and the right to write, of the working directory, temporary files and caches."""
    places = {
        "working directory": around.cwd,
        "temporary files": around.temporary,
        "Hugging Face cache": around.hub_cache,
        "torch cache": around.torch_checkpoints,
    }
    return [_place(name, path) for name, path in places.items()]


def _place(name: str, path: Path) -> Finding:
    nearest = next((p for p in (path, *path.parents) if p.is_dir()), None)
    if nearest is None:
        return Finding(name, "off", f"{path} is not there", "make the folder")
    free = shutil.disk_usage(nearest).free
    facts = {"path": str(path), "free": free}
    if not writable(nearest):
        return Finding(name, "off", f"{path} cannot be written", "give --out another place, or mend the rights", facts)
    if free < LITTLE_DISK:
        return Finding(name, "note", f"{path}: only {size(free)} free", "make room before a long run", facts)
    return Finding(name, "ok", f"{path}: {size(free)} free", facts=facts)


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder: tried, since rights alone do not say."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".semaug-doctor-"):
            return True
    except OSError:
        return False


def examine_numba(around: Surroundings) -> list[Finding]:
    """Whether compiled kernels are kept, where numba puts them: its variable, beside the code, the user's cache."""
    named = around.environ.get("NUMBA_CACHE_DIR")
    folders = {package: around.module(package) for package in COMPILED}
    beside = [folder for folder in folders.values() if folder is not None]
    if named:
        return [_kept(Path(named), "NUMBA_CACHE_DIR")]
    if beside and all(writable(folder) for folder in beside):
        kernels = sum(1 for folder in beside for _ in folder.glob("__pycache__/*.nbi"))
        detail = (
            f"{kernels} compiled, kept beside the code" if kernels else "compiled at first use, kept beside the code"
        )
        return [Finding("numba kernels", "ok", detail, facts={"compiled": kernels})]
    return [_kept(around.cache / "numba", "the user's cache")]


def _kept(folder: Path, what: str) -> Finding:
    nearest = next((p for p in (folder, *folder.parents) if p.is_dir()), None)
    if nearest is not None and writable(nearest):
        return Finding("numba kernels", "ok", f"kept in {folder} ({what})")
    return Finding(
        "numba kernels", "off", f"{folder} ({what}) cannot be written: kernels are compiled at every start",
        "set NUMBA_CACHE_DIR to a folder that can be written",
    )  # fmt: skip
