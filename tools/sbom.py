"""Write the bill of materials, CycloneDX 1.5 in JSON: what semaug's packages and their dependencies are.

uv gives the resolution with its hashes and who needs whom; licences are those of ``docs/reference/licences.md``. What
differs between two machines is left out: the time, a random serial number, and where files are fetched from, of which
only the names stay. So the same lock gives the same bytes.

``python tools/sbom.py [OUT]`` writes it (``build/sbom.cdx.json``); ``--check`` says whether it holds what the lock has.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from licences import LOCK, PAGE, REPOSITORY, rows_of

OUT = REPOSITORY / "build" / "sbom.cdx.json"
COMMAND = ["uv", "export", "--quiet", "--frozen", "--preview", "--all-groups", "--format", "cyclonedx1.5"]
OWN_LICENCE = "Apache-2.0"
_SPDX = re.compile(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*")
_LOOSE = {"BSD License", "not said"}


def resolution() -> dict[str, Any]:
    """uv's own export of the resolution."""
    text = subprocess.run(COMMAND, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    found: dict[str, Any] = json.loads(text)
    return found


def reproducible(found: Mapping[str, Any], licences: Mapping[str, str]) -> dict[str, Any]:
    """The bill without what differs between two machines, with licences, and a serial number made of its content."""
    components = sorted(
        (_component(c, licences) for c in found["components"]), key=lambda c: (c["name"], c.get("version", ""))
    )
    root = found["metadata"]["component"]
    plain = {ref: f"{c['name']}@{c.get('version', '')}" for c in [*found["components"], root] for ref in [c["bom-ref"]]}
    needs = {plain[d["ref"]]: sorted(plain[n] for n in d.get("dependsOn", ())) for d in found["dependencies"]}
    bill: dict[str, Any] = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": _component(root, licences)},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": needs[ref]} for ref in sorted(needs)],
    }  # fmt: skip
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill, sort_keys=True))}"
    return bill


def _component(found: Mapping[str, Any], licences: Mapping[str, str]) -> dict[str, Any]:
    name = found["name"]
    made: dict[str, Any] = {"type": found["type"], "bom-ref": f"{name}@{found.get('version', '')}", "name": name}
    made |= {key: found[key] for key in ("version", "purl") if key in found}
    licence = licences.get(name, OWN_LICENCE if name.startswith("semaug") else "")
    if licence:
        made["licenses"] = [_licence(licence)]
    files = [
        {"type": "distribution", "url": f["url"].rpartition("/")[2], "hashes": f["hashes"]}
        for f in found.get("externalReferences", ())
        if f["type"] == "distribution" and f.get("hashes")
    ]
    if files:
        made["externalReferences"] = sorted(files, key=lambda f: str(f["url"]))
    return made


def _licence(text: str) -> dict[str, Any]:
    return {"expression": text} if text not in _LOOSE and _SPDX.fullmatch(text) else {"license": {"name": text}}


def differences(bill: Mapping[str, Any], lock: str) -> list[str]:
    """What the bill and ``requirements.lock`` do not share, of names, versions and hashes."""
    ours, theirs = set(), set()
    for component in bill["components"]:
        hashes = {h["content"] for f in component.get("externalReferences", ()) for h in f["hashes"]}
        ours |= {f"{component['name']}=={component.get('version')} {h}" for h in hashes}
    for entry in lock.replace("\\\n", " ").splitlines():
        theirs |= {f"{entry.split()[0]} {h}" for h in re.findall(r"--hash=sha256:(\w+)", entry)}
    return sorted(f"only in {where}: {line}" for where, lines in (
        ("the bill", ours - theirs), ("requirements.lock", theirs - ours),
    ) for line in lines)  # fmt: skip


def main() -> int:
    """Write the bill, or with ``--check`` compare it with the lock."""
    licences = {name: row.licence for name, row in rows_of(PAGE.read_text()).items()}
    bill = reproducible(resolution(), licences)
    if "--check" in sys.argv:
        wrong = differences(bill, LOCK.read_text())
        bare = [c["name"] for c in bill["components"] if "licenses" not in c]
        wrong += [f"without a licence in {PAGE.name}: {name}" for name in bare]
        print("\n".join(line[:160] for line in wrong[:20]) or f"the bill names {len(bill['components'])} components")
        return 1 if wrong else 0
    out = next((Path(word) for word in sys.argv[1:]), OUT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill, indent=1) + "\n")
    print(f"{out}: {len(bill['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
