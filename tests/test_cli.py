"""The command line as a whole: help, start-up, configuration files, errors and exit codes."""

import json
import subprocess
import sys

import click
import pytest

from semaug.cli.main import COMMANDS, root


def run(*words: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from semaug.cli.main import main; main()", *words],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def verbs() -> list[tuple[str, ...]]:
    found = []
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        if isinstance(command, click.Group):
            found += [(name, verb) for verb in command.list_commands(click.Context(command))]
        else:
            found.append((name,))
    return found


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = root
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    return command


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_has_help_for_itself_and_every_option(words):
    command = command_of(words)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(words)} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_takes_the_global_options(words):
    names = {p.name for p in command_of(words).params}
    assert {"device", "workers", "threads", "offline", "quiet", "debug", "config"} <= names


def test_help_imports_nothing_heavy():
    heavy = ["torch", "torchvision", "lightning", "numpy", "zarr", "numba", "cv2", "PIL", "rich", "pydantic"]
    code = (
        "import sys\nfrom semaug.cli.main import root\n"
        "root.main(['--help'], standalone_mode=False)\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_group_imports_no_torch(name):
    code = (
        "import sys\nfrom semaug.cli.main import root\n"
        f"root.main([{name!r}, '--help'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'torchvision', 'lightning', 'zarr', 'numba', 'cv2') if m in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_missing_folder_is_one_line_and_exit_code_1(tmp_path):
    done = run("data", "info", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "nowhere" in done.stderr


def test_usage_errors_are_exit_code_2():
    assert run("data", "info").returncode == 2
    assert run("data", "nothing").returncode == 2


def test_config_file_refuses_unknown_keys_and_names_the_nearest(tmp_path):
    (tmp_path / "typo.toml").write_text("[data.info]\njsom = true\n")
    done = run("data", "info", "scenes:test?items=3", "--config", str(tmp_path / "typo.toml"))
    assert done.returncode == 1
    assert "unknown key 'data.info.jsom'; did you mean 'json'" in done.stderr


@pytest.mark.parametrize("behind", [False, True])
def test_config_file_sets_options_wherever_it_stands(tmp_path, behind):
    (tmp_path / "semaug.toml").write_text("[data.info]\njson = true\n")
    config, verb = ["--config", str(tmp_path / "semaug.toml")], ["data", "info", "scenes:test?items=3"]
    done = run(*verb, *config) if behind else run(*config, *verb)
    assert json.loads(done.stdout)["items"] == 3


def test_the_help_of_a_method_shows_its_recipes_and_options():
    from semaug.cli.commands.pretrain import METHODS

    for method, table in METHODS.items():
        command = command_of(("pretrain", method))
        text = " ".join(command.get_help(click.Context(command, info_name=method)).split())
        assert table["title"] in text
        for name, recipe in table["recipes"].items():
            assert f"{name}: {recipe['text']}" in text
        for option in table["options"]:
            assert any(p.name == f"own_{option}" and p.help for p in command.params)
