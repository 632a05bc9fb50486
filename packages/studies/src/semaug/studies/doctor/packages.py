"""Which distributions and extras are installed, and whether what is installed fits together."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from semaug.artifacts.network import OFFLINE, SILENT
from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.surroundings import Surroundings

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CORE = (
    "semaug-artifacts", "semaug-quality-policy", "semaug-ssl-methods", "semaug-oracles", "semaug-pairs-dataset",
    "semaug-eval", "semaug-prompt-synthesis", "semaug-diffaug-core", "semaug-studies",
)  # fmt: skip
COMMAND_LINE = "semaug"
EXTRAS: dict[str, tuple[str, str, str]] = {
    "yolo": ("semaug", "semaug-oracles", "YOLO detectors (AGPL-3.0)"),
    "sam": ("semaug", "semaug-oracles", "segment-anything masks"),
    "hf": ("semaug", "semaug-oracles", "SAM of transformers, Hugging Face data sets"),
    "synth": ("semaug", "semaug-prompt-synthesis", "captions, rewrites, mask maps, diffusion"),
    "onnx": ("semaug", "semaug-ssl-methods", "ONNX: mask maps of exported models, export of encoders"),
    "cells": ("semaug", "semaug-artifacts", "AnnData tables, scanpy"),
    "projections": ("semaug", "semaug-diffaug-core", "UMAP, PaCMAP and PHATE beside DiffAug"),
    "ray": ("semaug", "semaug-artifacts", "Ray actors, on one machine or many"),
    "s3": ("semaug", "semaug-artifacts", "artifacts in S3 and stores of its kind"),
    "tda": ("semaug", "semaug-eval", "Betti curves of dimension 1"),
    "parquet": ("semaug", "semaug-eval", "Parquet lists and features"),
    "timm": ("semaug-ssl-methods", "semaug-ssl-methods", "backbones timm/NAME"),
    "curate": ("semaug-pairs-dataset", "semaug-pairs-dataset", "judging pairs in the browser"),
    "propose": ("semaug-pairs-dataset", "semaug-pairs-dataset", "proposed pairs: hashes, neighbours"),
}
"""extra -> the distribution that offers it, the one that does where the first is not installed, what it is for."""
MODULES = {
    "pillow": "PIL", "opencv-python-headless": "cv2", "opencv-python": "cv2", "scikit-learn": "sklearn",
    "segment-anything": "segment_anything", "pyyaml": "yaml", "umap-learn": "umap", "scikit-image": "skimage",
}  # fmt: skip
"""Distributions whose module has another name."""
PATIENCE = 180.0
"""Seconds that one import may take."""


def module_of(distribution: str) -> str:
    """The module that a distribution brings.

    >>> module_of("opencv-python-headless"), module_of("umap-learn"), module_of("semaug-eval"), module_of("semaug")
    ('cv2', 'umap', 'semaug.eval', 'semaug.cli')
    """
    name = distribution.lower()
    if name == COMMAND_LINE:
        return "semaug.cli"
    if name.startswith("semaug-"):
        return "semaug." + name.removeprefix("semaug-").replace("-", "_")
    return MODULES.get(name, name.replace("-", "_"))


def examine_packages(around: Surroundings) -> list[Finding]:
    """The packages of semaug, one version for all, and the libraries that they cannot do without."""
    found = {name: around.version(name) for name in (COMMAND_LINE, *CORE)}
    present = {name: version for name, version in found.items() if version is not None}
    versions = sorted(set(present.values()))
    absent = [name for name in CORE if name not in present]
    findings = [Finding("semaug", "ok", f"{', '.join(versions)}; {len(present)} packages", facts=present)]
    if len(versions) > 1:
        spelled = ", ".join(f"{n} {v}" for n, v in present.items())
        findings = [Finding("semaug", "broken", f"packages of several versions: {spelled}", "install one version")]
    if absent:
        findings.append(
            Finding("packages", "broken", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
        )
    problems = {problem.name: problem for name in present for problem in _problems(around, name, extra="")}
    libraries = sorted(_libraries(around, tuple(present)))
    if libraries and not problems:
        shown = ", ".join(f"{n} {around.version(n)}" for n in ("numpy", "torch", "lightning") if around.version(n))
        findings.append(Finding("libraries", "ok", f"{len(libraries)} required, all there: {shown}, ..."))
    return findings + list(problems.values())


def _libraries(around: Surroundings, distributions: tuple[str, ...]) -> set[str]:
    return {r.name.lower() for d in distributions for r in _required(around, d, "") if not r.name.startswith("semaug")}


def examine_extras(around: Surroundings) -> list[Finding]:
    """The optional extras: what each is for, and the line that installs it."""
    return [_extra(around, name, *EXTRAS[name]) for name in EXTRAS]


def _extra(around: Surroundings, extra: str, first: str, other: str, what: str) -> Finding:
    distribution = first if around.version(first) is not None else other
    remedy = f"pip install '{distribution}[{extra}]'"
    if around.version(distribution) is None:
        return Finding(extra, "off", f"{what}; {distribution} is not installed", remedy)
    wanted = list(_required(around, distribution, extra))
    problems = list(_problems(around, distribution, extra))
    absent = [r.name for r in wanted if around.version(r.name) is None]
    if absent:
        return Finding(extra, "off", f"{what}; not installed: {', '.join(absent)}", remedy)
    if problems:
        return Finding(extra, "broken", f"{what}; {problems[0].name} {problems[0].detail}", problems[0].remedy)
    versions = {r.name: around.version(r.name) for r in wanted}
    return Finding(extra, "ok", f"{what}: {', '.join(f'{n} {v}' for n, v in versions.items())}", facts=versions)


def _required(around: Surroundings, distribution: str, extra: str) -> Iterator[Requirement]:
    """The libraries that a distribution (one extra of it) asks for here, through packages of semaug as well."""
    from packaging.requirements import Requirement

    for line in around.requirements(distribution):
        wanted = Requirement(line)
        if extra and (wanted.marker is None or "extra" not in str(wanted.marker)):
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        if not extra or not wanted.name.startswith("semaug"):
            yield wanted
            continue
        for inner in sorted(wanted.extras):
            yield from _required(around, wanted.name, inner)


def _problems(around: Surroundings, distribution: str, extra: str) -> Iterator[Finding]:
    """What a distribution (one extra of it) asks for and is absent, of an unfit version, or without its module."""
    for wanted in _required(around, distribution, extra):
        version = around.version(wanted.name)
        remedy = f"pip install '{wanted.name}{wanted.specifier}'"
        if version is None:
            yield Finding(wanted.name, "broken", f"is not installed, and {distribution} needs it", remedy)
        elif not wanted.specifier.contains(version, prereleases=True):
            yield Finding(wanted.name, "broken", f"is {version}, and {distribution} needs {wanted.specifier}", remedy)
        elif not around.has(module_of(wanted.name)):
            again = f"pip install --force-reinstall '{wanted.name}{wanted.specifier}'"
            yield Finding(
                wanted.name, "broken", f"{version} is listed as installed, {module_of(wanted.name)} is gone", again
            )


def examine_imports(around: Surroundings) -> list[Finding]:
    """Import every library that is installed, each in a process of its own, and say which fail, and why."""
    distributions = [name for name in (COMMAND_LINE, *CORE) if around.version(name) is not None]
    wanted = {r.name.lower() for d in distributions for r in _required(around, d, "")}
    for extra, (first, other, _) in EXTRAS.items():
        wanted |= {r.name.lower() for d in (first, other) for r in _required(around, d, extra)}
    modules = sorted({module_of(name) for name in wanted if around.version(name) is not None})
    failures = {module: reason for module in modules if (reason := _import_failure(module))}
    broken = [
        Finding(module, "broken", f"cannot be imported: {reason}", "install it again, or what the error names")
        for module, reason in failures.items()
    ]
    fine = Finding("imports", "ok", f"{len(modules) - len(broken)} of {len(modules)} libraries can be imported")
    return [fine, *broken]


def _import_failure(module: str) -> str:
    """The last line that importing a module prints when it fails, empty when it does not."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **SILENT, **OFFLINE, "YOLO_CONFIG_DIR": folder, "MPLCONFIGDIR": folder}
        words = [sys.executable, "-c", f"import {module}"]
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer after {PATIENCE:.0f} s"
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1][:160] if done.returncode else ""
