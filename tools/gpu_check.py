"""What can only be seen on a GPU: every method in bf16 and fp16, resuming, views, memory and speed, SyncBN, a study.

    python tools/gpu_check.py --out gpu_check --images cifar10 [--only steps,throughput] [--methods simclr,byol]

``--images`` is a folder with ``train/CLASS/*`` and ``test/CLASS/*`` (CIFAR-10 for the study). Writes
``report.md`` and ``report.json`` to the folder ``--out``, with date and hardware, after every check. Exit code 1 when
a check fails. ``--device cpu --tiny`` runs the same code on a few tiny images, in half a minute, and says nothing
about a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need

from gpu_parts import (
    FULL,
    TINY,
    Finding,
    check_resume,
    check_steps,
    check_study,
    check_syncbn,
    check_throughput,
    check_views,
    train,
)

CHECKS = ("steps", "resume", "views", "throughput", "syncbn", "study")


def main() -> int:
    """Run the chosen checks; exit code 1 when one fails."""
    options = _options()
    size = TINY if options.tiny else FULL
    if options.rank_of:  # one of the two processes of check_syncbn
        from semaug.ssl_methods.pretrain import Hardware

        train("simclr", size, options.rank_of, Hardware(options.device, devices=2))
        return 0
    if options.device == "cuda" and not _has_gpu():
        print("no GPU is visible; --device cpu --tiny runs the checks' code without one", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    for check, run in _chosen(options).items():
        print(f"{check} ...", file=sys.stderr)
        findings += _guarded(check, run)
        _write(options, findings)
    print((options.out / "report.md").read_text("utf-8"))
    return 1 if any(f.passed is False for f in findings) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few tiny images, to try the checks themselves")
    parser.add_argument("--only", default=",".join(CHECKS), help="checks, separated by commas (all by default)")
    parser.add_argument("--methods", help="ids, separated by commas (all by default)")
    parser.add_argument("--images", help="folder with train and test for the study")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := {*options.only.split(",")} - {*CHECKS}:
        parser.error(f"no check is called {min(unknown)!r}; choose of {', '.join(CHECKS)}")
    return options


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _chosen(options: argparse.Namespace) -> dict[str, Callable[[], Iterator[Finding]]]:
    from semaug.ssl_methods import METHODS

    size = TINY if options.tiny else FULL
    device, methods = options.device, options.methods.split(",") if options.methods else list(METHODS)
    runs = Path(tempfile.mkdtemp(prefix="semaug-gpu-"))
    known: dict[str, Callable[[], Iterator[Finding]]] = {
        "steps": lambda: check_steps(methods, device, size, runs / "steps"),
        "resume": lambda: check_resume(methods, device, size, runs / "resume"),
        "views": lambda: check_views(device, size, runs / "views"),
        "throughput": lambda: check_throughput(methods, device, size, runs / "throughput"),
        "syncbn": lambda: check_syncbn(device, size, runs / "syncbn"),
        "study": lambda: check_study(device, size, options.out / "study", options.images),
    }
    return {name: known[name] for name in options.only.split(",")}


def _guarded(check: str, run: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check, the last of which says so when it broke off."""
    findings: list[Finding] = []
    try:
        findings.extend(run())
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        findings.append(Finding(check, "broke off", False, {"error": reason}))
    return findings


def hardware(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    import torch
    from bench import hardware as processor

    found: dict[str, Any] = {"processor": processor(), "torch": torch.__version__, "system": platform.system()}
    if device == "cuda":
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found["gpus"] = [f"{card.name}, {card.total_memory / 1e9:.0f} GB" for card in cards]
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _write(options: argparse.Namespace, findings: list[Finding]) -> None:
    head = {
        "date": datetime.date.today().isoformat(),
        "device": options.device,
        "tiny": options.tiny,
        "hardware": hardware(options.device),
    }
    plain = {**head, "findings": [asdict(f) for f in findings]}
    (options.out / "report.json").write_text(json.dumps(plain, indent=1), "utf-8")
    (options.out / "report.md").write_text(report(head, findings), "utf-8")


def report(head: dict[str, Any], findings: list[Finding]) -> str:
    """The findings as markdown, a table a check."""
    lines = ["# GPU check" if head["device"] == "cuda" else "# GPU check, its code tried on a CPU", ""]
    lines += [f"{name}: {value}  " for name, value in {**head, **head["hardware"]}.items() if name != "hardware"]
    for check in dict.fromkeys(f.check for f in findings):
        rows = [f for f in findings if f.check == check]
        columns = list(dict.fromkeys(name for f in rows for name in f.values))
        lines += ["", f"## {check}", "| what | " + " | ".join(columns) + " | passed |"]
        lines.append("|" + "---|" * (len(columns) + 2))
        for f in rows:
            cells = [_cell(f.values.get(name)) for name in columns]
            lines.append("| " + " | ".join([f.name, *cells, _VERDICTS[f.passed]]) + " |")
    failed = sum(f.passed is False for f in findings)
    return "\n".join([*lines, "", f"{failed} of {len(findings)} findings failed", ""])


_VERDICTS = {True: "yes", False: "NO", None: "not judged"}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
