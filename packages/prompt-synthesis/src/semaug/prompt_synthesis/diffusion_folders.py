"""Opening a generator: a diffusers pipeline by its folder or its hub id, with or without a ControlNet."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.artifacts.network import forbid_telemetry
from semaug.prompt_synthesis.generators import KINDS, DiffusionGenerator, GenerationSettings
from semaug.prompt_synthesis.model_folders import ModelLocation, hub_is_off, locate_model, resolve_dtype

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONTROLNET = "the ControlNet"


def open_generator(
    kind: str,
    model: str | os.PathLike[str],
    controlnet: str | os.PathLike[str] | None = None,
    settings: GenerationSettings | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    batch_size: int = 4,
    safety_checker: bool = True,
    revision: str | None = None,
    variant: str | None = None,
) -> DiffusionGenerator:
    """Load the generator ``kind`` (``generators.KINDS``) from a folder that diffusers wrote, or from the hub's cache.

    ``model`` and ``controlnet`` are folders, or hub ids where there is no such folder; ids reach for the network
    only while ``HF_HUB_OFFLINE`` is unset. Only safetensors are read. ``variant``: the weight files' infix, such as
    fp16. ``safety_checker=False`` leaves out the one that some models have.

    Raises ``MissingWeights``, ``MissingDependency``, and ``InvalidOption`` for models that do not fit.
    """
    settings = settings or GenerationSettings()
    if kind not in KINDS:
        raise InvalidOption(f"the kind of generator is {kind!r}; use {', '.join(KINDS)}")
    if KINDS[kind].init:
        settings.check_steps()
    base = _fetch(_locate_pipeline(model, revision), variant)
    folder = _folder_of(base)
    components = _components(folder)
    net = _open_controlnet(kind, controlnet, folder, components, resolve_dtype(dtype, device), variant)
    options: dict[str, Any] = {"controlnet": net[0]} if net else {}
    if not safety_checker and "safety_checker" in components:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    with _opening(base.name):
        pipeline = _pipeline(kind, folder, {**options, "dtype": resolve_dtype(dtype, device), "variant": variant})
        _replace_scheduler(pipeline, settings.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
    identity = _identity(pipeline, base, net[1] if net else None, dtype=str(resolve_dtype(dtype, device)))
    return DiffusionGenerator(pipeline, kind, settings, batch_size, identity)


def pipeline_identity(
    model: str | os.PathLike[str], revision: str | None = None, variant: str | None = None
) -> dict[str, Any]:
    """Which pipeline a name stands for, without loading it: its name, revision and digest; fetches a hub id.

    Raises what ``open_generator`` raises for a model that is not there.
    """
    return _stamp(_fetch(_locate_pipeline(model, revision), variant))


def _locate_pipeline(model: str | os.PathLike[str], revision: str | None) -> ModelLocation:
    text = os.fspath(model)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise MissingWeights(f"{text} holds no model_index.json; give the folder of a whole diffusers pipeline")
        return ModelLocation(text, folder, revision)
    if folder.is_file():
        raise InvalidOption(f"{text} is a file; give the folder of a diffusers pipeline, which save_pretrained writes")
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise MissingWeights(f"there is no folder {text}; give a diffusers pipeline's folder or its hub id")
    return ModelLocation(text, None, revision)


def _fetch(location: ModelLocation, variant: str | None) -> ModelLocation:
    """The location with a folder: a hub id's snapshot, downloaded where the hub may be reached."""
    if location.folder is not None:
        return location
    with _opening(location.name, missing=True):
        from diffusers import DiffusionPipeline

        found = DiffusionPipeline.download(
            location.name,
            revision=location.revision,
            variant=variant,
            use_safetensors=True,
            local_files_only=hub_is_off(),
        )
    return ModelLocation(location.name, Path(found), Path(found).name)


def _folder_of(location: ModelLocation) -> Path:
    if location.folder is None:
        raise MissingWeights(f"{location.name} has no folder; fetch it first")
    return location.folder


def _components(folder: Path) -> Mapping[str, Any]:
    """The parts that ``model_index.json`` names; raises ``InvalidOption`` for a torn one or for pickled weights."""
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        parts = {k: v for k, v in index.items() if isinstance(v, list) and v and v[0] is not None}
    except (ValueError, AttributeError) as error:
        raise InvalidOption(f"{path} cannot be read ({error}); get the file again") from error
    for name in parts:
        pickles = sorted(p.name for pattern in _PICKLES for p in (folder / name).glob(pattern))
        if pickles and not any((folder / name).glob("*.safetensors")):
            raise InvalidOption(
                f"{folder / name} holds pickled weights only ({pickles[0]}), which are never loaded; convert them "
                "with save_pretrained, which writes safetensors"
            )
    return parts


def _open_controlnet(
    kind: str,
    model: str | os.PathLike[str] | None,
    base: Path,
    components: Mapping[str, Any],
    dtype: Any,
    variant: str | None,
) -> tuple[Any, ModelLocation] | None:
    """The ControlNet and where it is; None where the kind takes none or the pipeline's folder has its own."""
    if not KINDS[kind].control:
        if model is not None:
            raise InvalidOption(f"{kind} takes no ControlNet, but {os.fspath(model)} was given; leave it out")
        return None
    if model is None:
        if "controlnet" in components:
            return None
        raise InvalidOption(f"{kind} needs a ControlNet for ADE20K segmentations; give its folder or hub id")
    location = locate_model(model, _CONTROLNET)
    if location.folder is not None and not any(location.folder.glob(f"*.{variant}*.safetensors")):
        variant = None  # the net's files are plain ones
    with _opening(location.name, missing=location.folder is None):
        import diffusers

        config = diffusers.ControlNetModel.load_config(location.source, **location.options())
        _check_widths(location.name, config, base)
        options = {"dtype": dtype, "variant": variant, "use_safetensors": True, **location.options()}
        return getattr(diffusers, config["_class_name"]).from_pretrained(location.source, **options), location


def _check_widths(name: str, config: Mapping[str, Any], base: Path) -> None:
    """Raise ``InvalidOption`` for a net that is no ControlNet, or that reads texts of another width than the base."""
    import diffusers

    named = str(config.get("_class_name"))
    if "ControlNet" not in named or not hasattr(diffusers, named):
        raise InvalidOption(f"{name} is a {named}, not a ControlNet that diffusers has; give a ControlNet's folder")
    path = base / "unet" / "config.json"
    width = config.get("cross_attention_dim")
    if not path.is_file() or width is None:
        return
    expected = json.loads(path.read_text(encoding="utf-8")).get("cross_attention_dim")
    if expected != width:
        raise InvalidOption(
            f"the ControlNet {name} reads texts of width {width}, the model's U-Net of width {expected}; take a "
            "ControlNet made for this model (768 is Stable Diffusion 1, 1024 is 2, 2048 is XL)"
        )


def _pipeline(kind: str, folder: Path, options: Mapping[str, Any]) -> Any:
    """The pipeline of the kind in the model's family, else the very class the folder names."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    named = index.get("_class_name")
    name = next((n for n in (_class_name(str(named), kind), str(named)) if hasattr(diffusers, n)), None)
    if name is None:
        raise InvalidOption(f"{folder.name} names the pipeline {named!r}, which diffusers does not have; update it")
    return getattr(diffusers, name).from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)


def _class_name(named: str, kind: str) -> str:
    """diffusers' name of the pipeline that serves a kind with the weights of another.

    >>> _class_name("StableDiffusionXLPipeline", "controlnet-img2img")
    'StableDiffusionXLControlNetImg2ImgPipeline'
    """
    family = named.removesuffix("Pipeline").replace("ControlNet", "").replace("Img2Img", "")
    task = ("ControlNet" if KINDS[kind].control else "") + ("Img2Img" if KINDS[kind].init else "")
    return f"{family}{task}Pipeline"


def _replace_scheduler(pipeline: Any, name: str | None) -> None:
    import diffusers

    if name is None:
        return
    scheduler = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if scheduler is None:
        raise InvalidOption(f"diffusers has no scheduler {name!r}; name a class such as DDIMScheduler")
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)


def _identity(pipeline: Any, base: ModelLocation, net: ModelLocation | None, dtype: str) -> dict[str, Any]:
    checker = getattr(pipeline, "safety_checker", None)
    return {
        "pipeline": type(pipeline).__name__,
        "base": _stamp(base),
        "controlnet": None if net is None else _stamp(net),
        "scheduler": type(pipeline.scheduler).__name__,
        "safety_checker": checker is not None,
        "dtype": dtype.removeprefix("torch."),
    }


def _stamp(location: ModelLocation) -> dict[str, Any]:
    """The location's identity; a hub snapshot is known by its id and commit, so its files are not read for a digest."""
    if location.folder is not None and location.folder.parent.name == "snapshots":
        return {"model": location.name, "revision": location.folder.name, "digest": None}
    return location.identity()


@contextmanager
def _opening(name: str, missing: bool = False) -> Iterator[None]:
    """Quiet loading whose failures are one line; ``missing``: what fails is that the model is not there."""
    forbid_telemetry()
    try:
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise MissingDependency(
            "generators need diffusers and transformers; pip install 'semaug-prompt-synthesis[synth]'"
        ) from error
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (InvalidOption, MissingWeights):
        raise
    except ImportError as error:
        raise MissingDependency(f"{name} needs a package that is not installed: {_line(error)}") from error
    except Exception as error:  # diffusers reports a folder that is no pipeline by errors of many types
        if not missing:
            raise InvalidOption(f"{name} cannot be loaded as a generator: {_line(error)}") from error
        hub = "is not in the hub's local cache, and the hub is off (--offline)" if hub_is_off() else "cannot be fetched"
        raise MissingWeights(f"{name} is no folder here and {hub}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
