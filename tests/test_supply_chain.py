"""Dependencies: the audit, the bill of materials, the licences, and our own licence in what is built."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
MEMBERS = sorted(
    p.parent for p in (*REPOSITORY.glob("packages/*/pyproject.toml"), REPOSITORY / "apps/cli/pyproject.toml")
)
FINDING: dict[str, Any] = {
    "id": "GHSA-0000-test", "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z",
    "aliases": ["CVE-2026-0"], "summary": "absl-py may be wrong", "details": "",
    "affected": [{
        "package": {"name": "absl-py", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
    }],
}  # fmt: skip


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tool as a module, by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


class DataBase(BaseHTTPRequestHandler):
    """OSV's answers, with one finding."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        hit = {"vulns": [{"id": FINDING["id"], "modified": FINDING["modified"]}]}
        self.answer({"results": [hit if q["package"]["name"] == "absl-py" else {} for q in asked]})

    def do_GET(self) -> None:
        self.answer(FINDING)

    def answer(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), DataBase)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def audited(tool: Any, monkeypatch: pytest.MonkeyPatch, *words: str, accepted: dict[str, str] | None = None) -> int:
    monkeypatch.setattr(sys, "argv", ["audit.py", *words])
    return int(tool("audit").main(accepted or {}))


def needs_uv_lock() -> None:
    if not (REPOSITORY / "uv.lock").exists():
        pytest.skip("uv has resolved nothing here yet")


def test_a_finding_fails_the_audit_unless_a_reason_is_given(tool, monkeypatch, capsys, service) -> None:
    needs_uv_lock()
    assert audited(tool, monkeypatch, "--service-url", service) == 1
    assert "GHSA-0000-test: absl-py" in (said := capsys.readouterr().out)
    assert "absl-py may be wrong (fixed in 99)" in said
    assert audited(tool, monkeypatch, "--service-url", service, accepted={"CVE-2026-0": "never called"}) == 0


def test_a_data_base_out_of_reach_is_said_and_fails_where_that_is_asked_for(tool, monkeypatch, capsys) -> None:
    needs_uv_lock()
    closed = ("--service-url", "http://127.0.0.1:9")
    assert audited(tool, monkeypatch, *closed) == 0
    assert capsys.readouterr().out.startswith("not reached, so nothing was looked up")
    assert audited(tool, monkeypatch, *closed, "--require") == 1


def test_a_reason_that_nothing_needs_fails_too(tool) -> None:
    one = {"id": "A", "dependency": {"name": "p", "version": "1"}, "aliases": []}
    assert tool("audit").verdict([], {"A": "why"}) == ["A: is accepted, and nothing has it any more; take it out"]
    assert tool("audit").verdict([one], {"A": "why"}) == []
    assert tool("audit").verdict([one], {}) == ["A: p 1: no summary (fixed in none)"]


def test_the_bill_is_the_lock_and_the_same_each_time(tool) -> None:
    needs_uv_lock()
    sbom, licences = tool("sbom"), tool("licences")
    known = {name: row.licence for name, row in licences.rows_of(licences.PAGE.read_text()).items()}
    first, second = (json.dumps(sbom.reproducible(sbom.resolution(), known)) for _ in range(2))
    assert first == second
    assert "://" not in first, "no host is named"
    bill = json.loads(first)
    assert sbom.differences(bill, licences.LOCK.read_text()) == []
    assert [c["name"] for c in bill["components"] if "licenses" not in c] == []
    assert {m["name"] for m in (tomllib.loads((p / "pyproject.toml").read_text())["project"] for p in MEMBERS)} <= {
        c["name"] for c in bill["components"]
    }
    parts = {c["bom-ref"] for c in (*bill["components"], bill["metadata"]["component"])}
    assert {ref for d in bill["dependencies"] for ref in (d["ref"], *d["dependsOn"])} <= parts


def test_a_bill_of_other_files_is_told(tool) -> None:
    sbom = tool("sbom")
    file = {"type": "distribution", "url": "a-1.whl", "hashes": [{"alg": "SHA-256", "content": "00"}]}
    bill = {"components": [{"name": "a", "version": "1", "externalReferences": [file]}]}
    assert sbom.differences(bill, "a==1 \\\n    --hash=sha256:00\n") == []
    assert sbom.differences(bill, "a==2 \\\n    --hash=sha256:00\n") == [
        "only in requirements.lock: a==2 00", "only in the bill: a==1 00",
    ]  # fmt: skip


def test_every_locked_distribution_has_its_licence_listed(tool) -> None:
    licences = tool("licences")
    found = licences.rows_of(licences.PAGE.read_text())
    assert set(found) == set(licences.locked(licences.LOCK.read_text())), "run `python tools/licences.py`"
    assert [row.name for row in found.values() if row.licence in ("", "not said")] == []


def test_copyleft_comes_with_an_extra_alone(tool) -> None:
    licences = tool("licences")
    copyleft = {row for row in licences.rows_of(licences.PAGE.read_text()).values() if row.is_copyleft}
    assert {row.comes_with for row in copyleft if "ultralytics" in row.name} == {("`yolo`",)}
    assert {row.comes_with for row in copyleft} == {("`yolo`",), ("`projections`",)}
    needs_uv_lock()
    plain = licences.asked_for("--package", licences.CORE, "--no-default-groups")
    assert plain & {row.name for row in copyleft} == set(), "what `pip install semaug` brings"
    assert "ultralytics" in licences.asked_for("--package", licences.CORE, "--no-default-groups", "--extra", "yolo")


def test_the_words_of_licences_are_told_apart(tool) -> None:
    copyleft = {"GPL-2.0-only", "AGPL-3.0-or-later", "GNU General Public License v2 (GPLv2)", "MIT AND GPL-3.0-only"}
    free = {"LGPL-2.1", "MPL-2.0", "MIT", "Apache-2.0 WITH LLVM-exception"}
    row = tool("licences").Row
    assert {text for text in copyleft | free if row("p", text, ()).is_copyleft} == copyleft


def imports_when_imported(tree: ast.AST) -> Iterator[str]:
    """The modules that importing a module imports: those outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        yield from imports_when_imported(node)


def test_no_package_asks_for_copyleft_or_imports_it_unasked() -> None:
    banned = {"ultralytics", "ultralytics_thop", "phate", "graphtools", "tasklogger"}
    for member in MEMBERS:
        project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
        asked = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in project["dependencies"]}
        assert asked & banned == set(), project["name"]
        for path in member.glob("src/**/*.py"):
            found = {name.split(".")[0] for name in imports_when_imported(ast.parse(path.read_text()))}
            assert found & banned == set(), path


def test_every_distribution_has_our_licence() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    for member in MEMBERS:
        project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
        assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"]), member.name
        assert (member / "LICENSE").read_text() == text, member.name


@pytest.mark.slow
def test_what_is_built_holds_our_licence(tmp_path: Path) -> None:
    for member in MEMBERS:
        subprocess.run(["uv", "build", "--quiet", "--out-dir", str(tmp_path)], check=True, cwd=member)
    text = (REPOSITORY / "LICENSE").read_bytes()
    wheels, sources = sorted(tmp_path.glob("*.whl")), sorted(tmp_path.glob("*.tar.gz"))
    assert len(wheels) == len(sources) == len(MEMBERS)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE"))
            assert archive.read(name) == text
    for source in sources:
        with tarfile.open(source) as archive:
            member_file = next(
                m for m in archive.getmembers() if m.name.count("/") == 1 and m.name.endswith("/LICENSE")
            )
            content = archive.extractfile(member_file)
            assert content is not None
            assert content.read() == text


@pytest.mark.slow
def test_the_bill_keeps_to_cyclonedx_schema(tool, tmp_path: Path) -> None:
    """By the schema that CycloneDX's own library brings; it is fetched for this test alone."""
    sbom, licences = tool("sbom"), tool("licences")
    known = {name: row.licence for name, row in licences.rows_of(licences.PAGE.read_text()).items()}
    path = tmp_path / "bill.json"
    path.write_text(json.dumps(sbom.reproducible(sbom.resolution(), known)))
    code = (
        "import sys; from cyclonedx.validation.json import JsonStrictValidator as V;"
        "from cyclonedx.schema import SchemaVersion as S; print(V(S.V1_5).validate_str(open(sys.argv[1]).read()))"
    )
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with", "cyclonedx-python-lib[json-validation]"]
    done = subprocess.run([*command, "python", "-c", code, str(path)], capture_output=True, text=True)
    if "error sending request" in done.stderr or "dns error" in done.stderr:
        pytest.skip("no package index can be reached")
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr[-800:] + done.stdout[-800:]
