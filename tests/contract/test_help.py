"""The help of every command is a golden: a flag that changes its name, default or meaning is seen in review."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from joulebench import cli
from tests.goldens_support import Golden


@pytest.fixture(autouse=True)
def plain_and_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def as_python_310_to_313_say(text: str) -> str:
    """From Python 3.13 on, argparse names the metavar of an option with two names once instead of twice."""
    return re.sub(r"^(  -\w) [A-Z]\w*, (--)", r"\1, \2", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_the_golden(name: str, golden: Golden) -> None:
    golden(f"help/{name}.txt", as_python_310_to_313_say(cli.parser_for(name).format_help()))


def test_the_top_level_help_is_the_golden(golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    golden("help/joulebench.txt", capsys.readouterr().out)


HEAVY = ("numpy", "pandas", "pynvml", "xllamacpp")


@pytest.mark.parametrize(
    ("name", "heavy"), [*((name, HEAVY) for name in cli.COMMANDS), ("exporter", ("requests", "rich", "yaml"))]
)
def test_help_loads_no_heavy_library(name: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys; from joulebench import cli; cli.parser_for({name!r}); print(set({heavy!r}) & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
