import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from triptych import __version__
from triptych.cli import main as cli
from triptych.cli.main import VERBS, main
from triptych.errors import DataError


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"triptych {__version__}\n"


def test_help_lists_every_verb_without_torch() -> None:
    code = (
        "import sys; from triptych.cli.main import main; code = main(['--help']); "
        "sys.exit(code or ('torch' in sys.modules and 9))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_exists_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"triptych {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["--frobnicate"], ["recipe", "frobnicate"], []]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def stand_in(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the verb 'chat' raise ``error``."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "_load", lambda target: fail)


def test_a_mistake_is_a_message_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, DataError("a.jsonl:3: [bold]no image"))
    assert main(["chat"]) == 2
    assert capsys.readouterr().err == "triptych: a.jsonl:3: [bold]no image\n"


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, KeyboardInterrupt())
    assert main(["chat"]) == 130


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["chat"])


def test_a_closed_pipe_is_quiet() -> None:
    """Of a verb that prints more than a pipe holds; a real one would import torch first."""
    code = (
        "import sys; from triptych.cli import main as cli; "
        "cli._load = lambda target: lambda: print('{\\n' * 100_000); sys.exit(cli.main(['chat']))"
    )
    command = [f'{sys.executable} -c "$0" | head -n 1', code]
    done = subprocess.run(["bash", "-c", *command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "triptych", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"triptych {__version__}\n"


def test_the_package_declares_the_command() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'triptych = "triptych.cli.main:main"' in text
    assert importlib.import_module("triptych.cli.main").main is main
