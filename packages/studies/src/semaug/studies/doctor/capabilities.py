"""What can run here: oracles, models of synthesis, methods, evaluations; and what is missing for the others."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.packages import EXTRAS
from semaug.studies.doctor.surroundings import Surroundings
from semaug.studies.doctor.weights import Model


@dataclass(frozen=True, slots=True)
class Capability:
    """Something a user may want to run.

    ``modules`` are what it imports, ``extra`` brings those that are optional; ``role`` is the kind of model it needs,
    ``option`` how that is given, and ``where`` where to get one.
    """

    name: str
    what: str
    modules: tuple[str, ...] = ()
    extra: str = ""
    role: str = ""
    option: str = ""
    where: str = ""


_IMAGES = "safetensors of a diffusers pipeline, say stable-diffusion-v1-5/stable-diffusion-v1-5"
DETECTORS = (
    Capability("saliency", "detector; the offline default", ("numba", "cv2")),
    Capability("objectness", "detector and segmenter; its weights are in the package", ("torch", "safetensors")),
    Capability("center", "detector; a control", ()),
    Capability("annotations", "detector and segmenter; reads COCO, YOLO, VOC files", ("pycocotools",)),
    Capability("self", "detector; --detector-option encoder=RUN", ("torch", "semaug.ssl_methods")),
    Capability(
        "yolo", "detector", ("ultralytics",), "yolo", "yolo", "--detector-option weights={}",
        "yolov8n.pt of github.com/ultralytics/assets/releases",
    ),
)  # fmt: skip
SEGMENTERS = (
    Capability("grabcut", "segmenter; the offline default", ("cv2",)),
    Capability(
        "sam", "segmenter", ("segment_anything",), "sam", "sam", "--segmenter-option weights={}",
        "sam_vit_b_01ec64.pth of github.com/facebookresearch/segment-anything",
    ),
    Capability(
        "sam-hf", "segmenter", ("transformers",), "hf", "sam-hf", "--segmenter-option weights={}",
        "the folder of facebook/sam-vit-base",
    ),
)  # fmt: skip
_SYNTH = ("torch", "transformers")
SYNTHESIS = (
    Capability("captioner", "BLIP-2", _SYNTH, "synth", "captioner", "--captioner {}", "Salesforce/blip2-opt-2.7b"),
    Capability("rewriter", "a causal language model", _SYNTH, "synth", "rewriter", "--rewriter {}", "a LLaMA"),
    Capability("rewriter, served", "--endpoint URL of a server that has the model", ("httpx",)),
    Capability(
        "mask maps", "a panoptic model", (*_SYNTH, "scipy"), "synth", "panoptic", "--panoptic {}",
        "facebook/mask2former-swin-tiny-coco-panoptic",
    ),
    Capability("mask maps, exported", "YOSO and others as .onnx", ("onnxruntime",), "onnx"),
    Capability("generator", "diffusion", (*_SYNTH, "diffusers"), "synth", "generator", "--generator {}", _IMAGES),
    Capability(
        "ControlNet", "images held to a map", (*_SYNTH, "diffusers"), "synth", "controlnet", "--controlnet {}",
        "lllyasviel/control_v11p_sd15_seg",
    ),
    Capability("similarity", "CLIP", _SYNTH, "synth", "similarity", "--clip {}", "openai/clip-vit-large-patch14"),
)  # fmt: skip
OTHERS = (
    Capability("pretraining", "methods on images and rows", ("torch", "lightning", "torchvision")),
    Capability("timm backbones", "--backbone timm/NAME", ("timm",), "timm"),
    Capability("ONNX export", "semaug pretrain export --format onnx", ("onnx", "onnxscript"), "onnx"),
    Capability("DiffAug", "semantic encoder and generator", ("torch", "diffusers", "sklearn")),
    Capability("tables of cells", ".h5ad, scanpy sets", ("anndata", "scanpy"), "cells"),
    Capability("projections", "UMAP, PaCMAP, PHATE", ("umap", "pacmap", "phate"), "projections"),
    Capability("proposed pairs", "semaug pairs propose", ("imagehash", "pynndescent", "sklearn"), "propose"),
    Capability("curation", "semaug pairs curate", ("starlette", "uvicorn"), "curate"),
    Capability("probes, figures, report", "semaug eval", ("sklearn", "torchmetrics", "matplotlib", "jinja2")),
    Capability("Betti curves", "dimension 1", ("ripser",), "tda"),
    Capability("Hugging Face data sets", "hf:NAME as a folder", ("datasets",), "hf"),
    Capability("Parquet", "lists and features", ("pyarrow",), "parquet"),
    Capability("Ray", "--engine ray", ("ray",), "ray"),
)
GROUPS = {"semaug.detectors": "detector", "semaug.segmenters": "segmenter"}
"""Entry-point groups that other distributions register oracles in."""


def examine_capabilities(around: Surroundings, wanted: Sequence[Capability], models: Sequence[Model]) -> list[Finding]:
    """Whether each can run, with which model, and the remedy where not."""
    return [_examine(around, capability, models) for capability in wanted]


def _examine(around: Surroundings, wanted: Capability, models: Sequence[Model]) -> Finding:
    absent = [module for module in wanted.modules if not around.has(module)]
    if absent:
        remedy = f"pip install '{_offering(around, wanted.extra)}'" if wanted.extra else f"pip install {absent[0]}"
        return Finding(wanted.name, "off", f"{wanted.what}; not installed: {', '.join(absent)}", remedy)
    if not wanted.role:
        return Finding(wanted.name, "ok", wanted.what)
    fitting = [m for m in models if m.role == wanted.role]
    usable = [m for m in fitting if not m.problem]
    if usable:
        given = wanted.option.format(usable[0].place)
        more = f", and {len(usable) - 1} more" if len(usable) > 1 else ""
        facts = {"models": [m.place for m in usable]}
        return Finding(wanted.name, "ok", f"{wanted.what}: {given}{more}", facts=facts)
    spoiled = f"; {fitting[0].place}: {fitting[0].problem}" if fitting else "; no weights found"
    remedy = f"get {wanted.where}, then {wanted.option.format('PATH')}"
    return Finding(wanted.name, "off", wanted.what + spoiled, remedy)


def _offering(around: Surroundings, extra: str) -> str:
    first, other, _ = EXTRAS[extra]
    return f"{first if around.version(first) is not None else other}[{extra}]"


def examine_methods(around: Surroundings) -> Finding:
    """The methods that ``semaug pretrain`` has, read from their table of recipes."""
    folder = around.module("semaug.ssl_methods")
    try:
        table: dict[str, Any] = tomllib.loads((folder / "presets.toml").read_text()) if folder else {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        return Finding("methods", "broken", f"presets.toml cannot be read: {error}", "install semaug-ssl-methods again")
    absent = [module for module in ("torch", "lightning") if not around.has(module)]
    names = list(table.get("methods", {}))
    if absent:
        return Finding("methods", "off", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    return Finding("methods", "ok", ", ".join(names), facts={"methods": names})


def examine_plugins(around: Surroundings) -> list[Finding]:
    """The oracles that other distributions registered."""
    findings = []
    for group, role in GROUPS.items():
        for name, target in sorted(around.plugins(group).items()):
            module = target.partition(":")[0]
            there = around.has(module)
            state, remedy = ("ok", "") if there else ("broken", "install its distribution again")
            detail = f"{role} of a plug-in: {target}" + ("" if there else f"; {module} is gone")
            findings.append(Finding(name, state, detail, remedy))  # type: ignore[arg-type]
    return findings
