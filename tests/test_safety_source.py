"""What the source may not say: unpickling, evaluating, shells, queries put together, servers, waiting for ever.

Every exception stands in ``ALLOWED`` with its reason; one that is not needed any more fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
PROCESSES = {
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
}
ARCHIVES = {"extractall", "unpack_archive", "extract"}
REQUESTS = {
    "urllib.request.urlopen", "urlopen", "requests.get", "requests.post", "requests.request", "httpx.get", "httpx.post",
    "httpx.request", "httpx.stream", "httpx.Client", "httpx.AsyncClient",
}  # fmt: skip
SERVERS = {
    "HTTPServer",
    "ThreadingHTTPServer",
    "TCPServer",
    "UnixStreamServer",
    "start_server",
    "create_server",
    "bind",
}
YAML = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
QUERIES = {"execute", "executemany", "executescript"}

ALLOWED: dict[tuple[str, str], str] = {
    ("artifacts/ray_engine.py", "cloudpickle"): "an actor gets its work from the process that started it, by Ray",
    ("artifacts/sources/named/arrays.py", "pickle"): "an Unpickler that makes numbers, texts and arrays, CIFAR's files",
    ("eval/detection/detectron2.py", "pickle"): "writes detectron2's format; its Unpickler makes arrays alone",
    ("ssl_methods/batches.py", "pickle"): "copies an object of this process, dumped a moment before",
    ("ssl_methods/testing.py", "pickle"): "what tests send to processes that they start themselves",
    ("ssl_methods/testing.py", "server"): "asks the system for a free port of the loopback",
    ("ssl_methods/stopping.py", "process"): "scontrol requeue, with the job's number of SLURM as an argument",
    ("studies/doctor/packages.py", "process"): "imports of modules in the metadata of what is installed",
    ("pairs_dataset/curation/server.py", "server"): "the curation page, on 127.0.0.1",
    ("cli/commands/pairs_curate.py", "server"): "asks the curation page to bind there",
    ("pairs_dataset/curation/journal.py", "query"): "joins constants of the module; every value is a parameter",
    ("prompt_synthesis/exported_panoptic.py", "torch.jit.load"): "after its code was read: it computes only",
}
"""(file below semaug/, rule) -> why it is no danger."""


def name_of(node: ast.expr) -> str:
    """`a.b.c` of an attribute or a name, with "" for what is computed."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword, an ``ast`` node where it is computed, None where it is not given."""
    found = next((k.value for k in call.keywords if k.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else found


def is_text(node: ast.expr) -> bool:
    """Whether a query is written out: a constant, or a name of the module in capitals."""
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())


def is_told_where(call: ast.Call) -> bool:
    """Whether a ``from_pretrained`` gets its options from where they are decided, or stays on the disk."""
    return any(k.arg is None for k in call.keywords) or keyword(call, "local_files_only") is True


RULES: dict[str, Callable[[ast.Call, str, str], bool]] = {
    "eval": lambda call, name, last: name in ("eval", "exec", "compile", "__import__", "input"),
    "torch.load": lambda call, name, last: name == "torch.load" and keyword(call, "weights_only") is not True,
    "torch.jit.load": lambda call, name, last: name in ("torch.jit.load", "torch.hub.load", "PackageImporter"),
    "allow_pickle": lambda call, name, last: (
        keyword(call, "allow_pickle") not in (None, False)
        or (name == "np.load" and keyword(call, "allow_pickle") is None)
    ),
    "trust_remote_code": lambda call, name, last: keyword(call, "trust_remote_code") not in (None, False),
    "from_pretrained": lambda call, name, last: last == "from_pretrained" and not is_told_where(call),
    "yaml": lambda call, name, last: name in YAML,
    "shell": lambda call, name, last: name in SHELLS or keyword(call, "shell") not in (None, False),
    "process": lambda call, name, last: name in PROCESSES or last in ("execv", "execve", "execvp", "spawnv"),
    "query": lambda call, name, last: last in QUERIES and bool(call.args) and not is_text(call.args[0]),
    "archive": lambda call, name, last: last in ARCHIVES and name != last,
    "mktemp": lambda call, name, last: last == "mktemp",
    "certificate": lambda call, name, last: last == "_create_unverified_context" or keyword(call, "verify") is False,
    "timeout": lambda call, name, last: name in REQUESTS and keyword(call, "timeout") is None,
    "server": lambda call, name, last: last in SERVERS or name.startswith("uvicorn."),
}
"""rule -> whether a call, by its whole and its last name, breaks it."""


def faults(tree: ast.AST) -> Iterator[str]:
    """The rules that a module breaks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PICKLERS)
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.name in PICKLERS)
            if (node.module or "").split(".")[0] in PICKLERS:
                yield str(node.module)
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            yield from (rule for rule, broken in RULES.items() if broken(node, name, name.rpartition(".")[2]))


def test_the_source_does_none_of_it_but_where_it_is_harmless() -> None:
    found = set()
    for folder in (*REPOSITORY.glob("packages/*/src/semaug"), *REPOSITORY.glob("apps/*/src/semaug")):
        for path in folder.rglob("*.py"):
            place = path.relative_to(folder).as_posix()
            found |= {(place, rule) for rule in faults(ast.parse(path.read_text(encoding="utf-8")))}
    assert found - ALLOWED.keys() == set(), "mend it, or say in ALLOWED why it is harmless"
    assert ALLOWED.keys() - found == set(), "these exceptions are not needed any more"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("import pickle", "pickle"),
        ("from ray import cloudpickle", "cloudpickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(path, weights_only=flag)", "torch.load"),
        ("torch.jit.load(path)", "torch.jit.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.load(path)", "allow_pickle"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml"),
        ("eval(text)", "eval"),
        ("exec(text)", "eval"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("os.system(line)", "shell"),
        ("subprocess.run(words)", "process"),
        ('database.execute(f"SELECT {name}")', "query"),
        ('database.execute("SELECT " + name)', "query"),
        ('database.execute("SELECT %s" % name)', "query"),
        ("archive.extractall(folder)", "archive"),
        ("tempfile.mktemp()", "mktemp"),
        ("httpx.get(url, timeout=9, verify=False)", "certificate"),
        ("httpx.get(url)", "timeout"),
        ("httpx.Client()", "timeout"),
        ("urllib.request.urlopen(url)", "timeout"),
        ('AutoModel.from_pretrained("a/b")', "from_pretrained"),
        ("AutoModel.from_pretrained(folder, trust_remote_code=True, **options)", "trust_remote_code"),
        ('HTTPServer(("", 80), Handler)', "server"),
    ],
)
def test_each_rule_finds_what_it_is_for(line: str, rule: str) -> None:
    assert rule in set(faults(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "encoder.eval()",
        'database.execute("SELECT * FROM pairs WHERE id = ?", (name,))',
        "httpx.Client(timeout=timeout)",
        "yaml.safe_load(text)",
        "AutoModel.from_pretrained(location.source, **location.options())",
    ],
)
def test_no_rule_minds_what_is_harmless(line: str) -> None:
    assert set(faults(ast.parse(line))) == set()
