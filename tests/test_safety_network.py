"""Nothing leaves the machine: ``--offline`` is held to, and without it no verb reaches out either."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from semaug.artifacts import network

REPOSITORY = Path(__file__).parent.parent
SCRIPT = str(REPOSITORY / "tests" / "every_verb.py")
OUTSIDE = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)|sin6_port=htons\((\d+)\).*?"([^"]+)"')


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {*network.SILENT, *network.OFFLINE}}
    return subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True)


ATTEMPTS: dict[str, str] = {
    "a name": "socket.create_connection(('example.com', 80), 2)",
    "an address": "socket.create_connection(('192.0.2.1', 80), 2)",
    "an address of version 6": "socket.create_connection(('2001:db8::1', 80), 2)",
    "a question": "socket.getaddrinfo('example.com', 80)",
    "another question": "socket.gethostbyname('example.com')",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "a library": "__import__('httpx').get('http://192.0.2.1/', timeout=2)",
    "a loop of events": "asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
}


def test_offline_python_reaches_nobody_and_itself() -> None:
    """Every way out in one process; the loopback and local sockets stay open."""
    lines = ["import asyncio, socket, tempfile", "from semaug.artifacts.network import *", "forbid_network()"]
    for name, attempt in ATTEMPTS.items():
        lines += ["try:", f"    {attempt}", f"    print({name!r}, 'went out')", "except Exception as error:"]
        lines += ["    causes = [error]", "    while causes[-1].__cause__ or causes[-1].__context__:"]
        lines += ["        causes.append(causes[-1].__cause__ or causes[-1].__context__)"]
        lines += [f"    if not any('--offline forbids' in str(e) for e in causes): print({name!r}, repr(error))"]
    lines += ["server = socket.create_server(('127.0.0.1', 0))"]
    lines += ["socket.create_connection(('localhost', server.getsockname()[1]), 2).close()"]
    lines += ["local = socket.socket(socket.AF_UNIX)", "place = tempfile.mkdtemp() + '/s'", "local.bind(place)"]
    lines += ["local.listen()", "socket.socket(socket.AF_UNIX).connect(place)", "print('done')"]
    done = run_python("\n".join(lines))
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


def test_a_started_process_is_offline_where_its_parent_is() -> None:
    code = (
        "from semaug.artifacts.network import keep_offline; keep_offline(); import socket\n"
        "try: socket.getaddrinfo('127.0.0.1.example.invalid', 1)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    assert run_python(code, SEMAUG_OFFLINE="1").stdout == "NetworkForbidden\n"
    assert run_python(code).stdout == "gaierror\n"


def test_workers_and_actors_are_told() -> None:
    from semaug.artifacts.ray_engine import _PASSED_ON

    assert {*network.OFFLINE, *network.SILENT} <= set(_PASSED_ON)
    code = (
        "import multiprocessing, semaug.artifacts.network as n\nfrom semaug.artifacts.pool import _start_worker\n"
        "n.forbid_network(); import sys; delattr(sys, n._HOOKED); _start_worker(None, None)\n"
        "print(getattr(sys, n._HOOKED))"
    )
    assert run_python(code).stdout == "True\n"


def test_libraries_are_told_not_to_report_and_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in network.SILENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    network.forbid_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    others = {name: value for name, value in network.SILENT.items() if name != "RAY_USAGE_STATS_ENABLED"}
    assert {name: os.environ[name] for name in others} == others


def test_the_command_line_sets_the_switches_before_any_library(tmp_path: Path) -> None:
    code = (
        "import sys; from semaug.cli.main import main\n"
        "sys.argv = ['semaug', '--offline', 'data', 'info', 'scenes:train?items=1']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "import os; from semaug.artifacts.network import *\n"
        "print(all(os.environ[n] == v for n, v in {**SILENT, **OFFLINE}.items()), is_offline())"
    )
    assert run_python(code).stdout.endswith("True True\n")


def test_an_endpoint_elsewhere_and_offline_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from semaug.prompt_synthesis.endpoint import ChatEndpoint

    monkeypatch.setenv(network.SWITCH, "1")
    with pytest.raises(network.NetworkForbidden, match=r"the endpoint at example\.com"):
        ChatEndpoint("https://example.com/v1", "m")
    ChatEndpoint("http://127.0.0.1:9/v1", "m").close()
    monkeypatch.delenv(network.SWITCH)
    ChatEndpoint("https://example.com/v1", "m").close()


def test_a_bound_port_is_on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curation page's own tests are in packages/pairs-dataset; here: no other address can be asked for."""
    from semaug.pairs_dataset.curation.server import Address

    address = Address.bind()
    assert address.socket.getsockname()[0] == "127.0.0.1"
    other = next((info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1")
    if not network._address(other).is_loopback:  # type: ignore[union-attr]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(other), address.port), 2)
    address.socket.close()


def test_tokens_are_compared_in_constant_time() -> None:
    """By the standard library's function, and by nothing else."""
    source = (REPOSITORY / "packages/pairs-dataset/src/semaug/pairs_dataset/curation/server.py").read_text()
    assert "secrets.compare_digest(parts[1].encode(), self._token)" in source
    assert "== self._token" not in source


def carried_out(folder: Path, *before: str, words: tuple[str, ...] = ()) -> list[dict[str, object]]:
    """What every verb came to, below a command that watches or confines it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in (*network.SILENT, *network.OFFLINE):
        environment.pop(name, None)
    command = [*before, sys.executable, "-W", "ignore", SCRIPT, str(folder), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) > 30
    assert [line for line in lines if line["code"] != 0] == []
    return lines


@pytest.mark.slow
def test_every_verb_works_with_the_network_cut(tmp_path: Path) -> None:
    cut = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if not all(map(shutil.which, ("unshare", "ip"))) or subprocess.run([*cut, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    carried_out(tmp_path, *cut, words=("--offline",))


@pytest.mark.slow
def test_no_verb_asks_for_anything_outside(tmp_path: Path) -> None:
    """Without ``--offline``, by what the kernel sees: connections and datagrams of all threads and children."""
    log = tmp_path / "calls"
    watch = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg", "-e", "signal=none"]
    if shutil.which("strace") is None or subprocess.run([*watch, "true"], capture_output=True).returncode:
        pytest.skip("strace cannot watch here")
    folder = tmp_path / "verbs"
    folder.mkdir()
    carried_out(folder, *watch, "-o", str(log), words=("--no-ray",))  # docs/guide/safety.md says what Ray asks for
    assert reached(log.read_text(errors="replace")) == set()


def reached(calls: str) -> set[str]:
    """The addresses outside this machine in strace's lines; a name server is outside wherever it is."""
    found = set()
    for port4, address4, port6, address6 in OUTSIDE.findall(calls):
        port, address = (port4, address4) if port4 else (port6, address6.removeprefix("::ffff:"))
        if port == "53" or not network.is_here(address):
            found.add(f"{address}:{port}")
    return found


def test_strace_is_read_as_it_writes() -> None:
    lines = (
        '7 connect(7, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0\n'
        '7 connect(8, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.7")}, 16 <unfinished ...>\n'
        '7 connect(9, {sa_family=AF_INET, sin_port=htons(6379), sin_addr=inet_addr("127.0.0.1")}, 16) = 0\n'
        "7 connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "
        '"2001:db8::5", &sin6_addr), sin6_scope_id=0}, 28) = -1 ENETUNREACH\n'
        '7 connect(3, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT\n'
    )
    assert reached(lines) == {"127.0.0.53:53", "192.0.2.7:443", "2001:db8::5:80"}


@pytest.mark.slow
def test_onnx_runtime_sends_nothing_home(tmp_path: Path) -> None:
    """Unless it is told not to, it keeps a data base of its uses in the user's cache, and sends it by and by."""
    pytest.importorskip("onnxruntime")
    code = "from semaug.artifacts.network import forbid_telemetry; forbid_telemetry(); import onnxruntime"
    done = run_python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.rglob("*") if "onnxruntime" in p.name] == []
