"""The help of every command is a golden: a flag that changes its name, default or meaning is seen in review."""

from __future__ import annotations

import subprocess
import sys

import pytest

from joulebench import cli
from tests.contract.commands import COMMAND_PATHS
from tests.goldens_support import Golden

HEAVY = ("numpy", "pandas", "pynvml", "xllamacpp")
FOR_AN_EXPORTER_TOO_HEAVY = (*HEAVY, "requests", "rich", "yaml")


@pytest.fixture(autouse=True)
def plain_and_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("path", COMMAND_PATHS, ids="-".join)
def test_help_is_the_golden(path: tuple[str, ...], golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*path, "--help"]) == 0
    golden(f"help/{'-'.join(path)}.txt", capsys.readouterr().out)


def test_the_top_level_help_is_the_golden(golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    golden("help/joulebench.txt", capsys.readouterr().out)


@pytest.mark.parametrize(("name", "group"), cli.ALIASES.items(), ids=cli.ALIASES)
def test_a_short_name_is_the_command_of_its_group(name: str, group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    short = capsys.readouterr().out
    assert cli.main([group, name, "--help"]) == 0
    assert capsys.readouterr().out == short.replace(f"joulebench {name}", f"joulebench {group} {name}", 1)


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_loads_no_heavy_library(name: str) -> None:
    heavy = FOR_AN_EXPORTER_TOO_HEAVY if name in ("", "exporter") else HEAVY
    words = [*name.split(), "--help"]
    code = (
        f"import sys; from joulebench import cli; cli.main({words!r}); print(set({heavy!r}) & set(sys.modules), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr == "set()\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "joulebench: No such command 'nonsense'; 'joulebench --help' lists what it takes\n"),
        (["export"], "joulebench export: Missing option '--run-id'; 'joulebench export --help' lists what it takes\n"),
        (["stack", "up", "--prometheus-port", "0"], "joulebench stack up: --prometheus-port: 0 is not a whole number between 1"),
        (["mcpworld", "run"], "joulebench mcpworld run: COMMAND: nothing to run; write it behind --"),
        (["run"], "joulebench run: COMMAND: nothing to run; write it behind --"),
        (["bench", "--base-url", "http://h", "--embedded"], "joulebench bench: --embedded: not allowed with --base-url;"),
        (["exporter", "--energy.poll-period", "nan"], "--energy.poll-period: nan is not a number of seconds between 0.005 and 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_bad_value_from_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBENCH_PROMETHEUS_URL", "localhost")
    assert cli.main(["export", "--run-id", "r"]) == 2
    assert "joulebench export: JOULEBENCH_PROMETHEUS_URL: 'localhost' is not a URL" in capsys.readouterr().err


def test_without_arguments_the_help_is_printed_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Short names:" in capsys.readouterr().err
