"""Look up what is known to be wrong with the locked dependencies: OSV's data base, asked by ``uv audit``.

Fails on a finding that ``ACCEPTED`` does not give a reason for, and on a reason that nothing needs any more. Where the
data base cannot be reached it says so and fails only with ``--require``: nothing was looked up then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
COMMAND = ["uv", "audit", "--quiet", "--frozen", "--output-format", "json", "--preview"]
PATIENCE = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "20"}
UNREACHED = ("error sending request", "dns error", "timed out", "client error (Connect)", "Failed to fetch")
ACCEPTED: Mapping[str, str] = {}
"""id of a finding (GHSA, CVE, PYSEC) -> why it does not concern semaug, or until when it is borne."""


class NotReached(Exception):
    """The data base gave no answer."""


def findings(service: str | None = None) -> list[dict[str, Any]]:
    """Every known vulnerability of a locked dependency; raises ``NotReached``, ``RuntimeError`` for another failure."""
    command = [*COMMAND, *(["--service-url", service] if service else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, **PATIENCE})
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = " ".join(done.stderr.split())
        if any(sign in said for sign in UNREACHED):
            raise NotReached(said[-160:]) from None
        raise RuntimeError(f"uv audit ended with {done.returncode}: {said[-300:]}") from None
    found: list[dict[str, Any]] = report["vulnerabilities"]
    return found


def verdict(found: Sequence[Mapping[str, Any]], accepted: Mapping[str, str]) -> list[str]:
    """What must be dealt with, one line each."""
    lines, used = [], set()
    for one in found:
        names = {one["id"], *one.get("aliases", ())}
        if known := names & accepted.keys():
            used |= known
            continue
        fixed = ", ".join(one.get("fix_versions", ())) or "none"
        package = f"{one['dependency']['name']} {one['dependency']['version']}"
        lines.append(f"{one['id']}: {package}: {one.get('summary') or 'no summary'} (fixed in {fixed})")
    lines += [f"{name}: is accepted, and nothing has it any more; take it out" for name in accepted.keys() - used]
    return sorted(lines)


def main(accepted: Mapping[str, str] = ACCEPTED) -> int:
    """0 where all is well or nobody could be asked; ``--service-url URL`` asks another data base of OSV's kind."""
    words = sys.argv[1:]
    service = words[words.index("--service-url") + 1] if "--service-url" in words else None
    try:
        lines = verdict(findings(service), accepted)
    except NotReached as error:
        print(f"not reached, so nothing was looked up: {error}")
        return 1 if "--require" in words else 0
    print("\n".join(lines) or f"no known vulnerability; {len(accepted)} accepted")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
