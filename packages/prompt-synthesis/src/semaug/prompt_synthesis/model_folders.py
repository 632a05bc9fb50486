"""Where a transformers model's files are: a local folder first, else an id of the hub; safetensors only."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights, SemaugError
from semaug.artifacts.files import hash_file
from semaug.artifacts.network import forbid_telemetry
from semaug.artifacts.outside import parse_json
from semaug.artifacts.roots import stays_inside

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONTENT = {".safetensors", ".json", ".txt", ".model", ".jinja"}
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A model as the user named it: ``folder`` where it is local, else a hub id with an optional ``revision``."""

    name: str
    folder: Path | None
    revision: str | None = None

    def options(self) -> dict[str, Any]:
        """What ``from_pretrained`` is told: no code from the model's files, and no network where none is needed."""
        local = self.folder is not None or hub_is_off()
        return {"revision": self.revision, "local_files_only": local, "trust_remote_code": False}

    @property
    def source(self) -> str:
        """The first argument of ``from_pretrained``."""
        return str(self.folder or self.name)

    def identity(self) -> dict[str, Any]:
        """The model's name, its revision, and the digest of its files where they are local; never a path."""
        if self.folder is not None:
            return {
                "model": self.folder.resolve().name,
                "revision": self.revision,
                "digest": folder_digest(self.folder),
            }
        return {"model": self.name, "revision": _commit(self.name, self.revision), "digest": None}


def hub_is_off() -> bool:
    """Whether the environment forbids to reach for the hub (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def locate_model(model: str | os.PathLike[str], what: str, revision: str | None = None) -> ModelLocation:
    """Find a model's files; ``what`` names its part ("the captioner") in errors.

    Raises ``MissingWeights`` for a folder that is not there or holds no model, ``InvalidOption`` for a file, and for
    a folder whose weights are pickles.
    """
    text = os.fspath(model)
    folder = Path(text).expanduser()
    if folder.is_dir():
        _check_folder(folder, what)
        return ModelLocation(text, folder, revision)
    if folder.is_file():
        raise InvalidOption(f"{what}: {text} is a file; give the folder that save_pretrained wrote")
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise MissingWeights(f"{what}: there is no folder {text}; give a transformers model's folder or its hub id")
    return ModelLocation(text, None, revision)


def _check_folder(folder: Path, what: str) -> None:
    if not (folder / "config.json").is_file():
        raise MissingWeights(f"{what}: {folder} holds no config.json; give the folder that save_pretrained wrote")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_shards(folder, index, what)
    elif not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        if pickles:
            raise InvalidOption(
                f"{what}: {folder} holds pickled weights only ({pickles[0]}), which are never loaded; "
                "convert them with save_pretrained, which writes safetensors"
            )
        raise MissingWeights(f"{what}: {folder} holds no .safetensors; get the model's weights too")


def _check_shards(folder: Path, index: Path, what: str) -> None:
    try:
        names = set(map(str, parse_json(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InvalidOption(f"{what}: {index} cannot be read ({str(error)[:200]}); get the file again") from error
    outside = sorted(name for name in names if not stays_inside(name))
    if outside:
        raise InvalidOption(
            f"{what}: {index} names the shard {outside[0][:200]!r}, which is not in {folder}; get it again"
        )
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise MissingWeights(
            f"{what}: {folder} lacks {missing[0]}, {len(missing)} of {len(names)} shards; get them too"
        )


def folder_digest(folder: Path) -> str:
    """blake2b over the names and contents of a model's configuration, tokenizer and weights, 32 hex digits."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _CONTENT)
    stamps = tuple((p, p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    return _digest_of(folder, stamps)


@cache
def _digest_of(folder: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file, _, _ in stamps:
        digest.update(f"{file.relative_to(folder).as_posix()}\x1f{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model in the local cache; what was asked for where it was not fetched yet."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


@contextmanager
def loading(location: ModelLocation, what: str, extra: str = "synth") -> Iterator[None]:
    """Quiet loading, whose failures are one line: ``MissingDependency``, ``MissingWeights`` or ``InvalidOption``."""
    forbid_telemetry()
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependency(f"{what} needs transformers; pip install 'semaug-prompt-synthesis[{extra}]'") from error
    logging.disable_progress_bar()  # progress is the caller's to draw
    try:
        yield
    except ImportError as error:
        raise MissingDependency(
            f"{what} needs a package that is not installed: {_line(error)}; "
            f"pip install 'semaug-prompt-synthesis[{extra}]'"
        ) from error
    except SemaugError:
        raise
    except Exception as error:  # damaged files make the libraries raise nearly anything
        if location.folder is None:
            raise MissingWeights(_not_fetched(location, what, error)) from error
        raise InvalidOption(f"{what}: {location.name} cannot be loaded: {_line(error)}") from error


def _not_fetched(location: ModelLocation, what: str, error: Exception) -> str:
    if hub_is_off():
        return f"{what}: {location.name} is no folder here nor in the hub's local cache, and the hub is off (--offline)"
    return f"{what}: {location.name} is no folder here, and the hub does not give it: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def check_vocabulary(tokenizer: Any) -> None:
    """Raise ``OSError`` for a tokenizer without words: transformers makes one where it finds no files."""
    if len(tokenizer) < len(tokenizer.all_special_tokens) + 16:
        raise OSError("its tokenizer's files are missing")


def read_config(location: ModelLocation, what: str) -> Any:
    """The model's configuration (transformers' ``PretrainedConfig``); raises what ``loading`` raises."""
    with loading(location, what):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(location.source, **location.options())


def resolve_dtype(dtype: str, device: str) -> Any:
    """The torch dtype: ``auto`` is float32 on a CPU, bfloat16 (float16 before Ampere) on a GPU.

    Raises ``InvalidOption`` for another name than auto, float32, float16 and bfloat16.
    """
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype in known:
        return known[dtype]
    if dtype != "auto":
        raise InvalidOption(f"dtype is {dtype!r}; use auto, {', '.join(known)}")
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@contextmanager
def guarding_memory(what: str, batch: int) -> Iterator[None]:
    """Turn a device's lack of memory into one line that names the batch."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InvalidOption(
            f"{what} ran out of device memory with {batch} texts a batch; lower the batch size"
        ) from error


def free_device_memory() -> None:
    """Give back what a model that was let go of held."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
