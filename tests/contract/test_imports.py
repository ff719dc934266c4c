"""The house's import directions, and the one file through which each outside thing is reached.

A failure names the import; move the code to the room that may have it, or pass what it needs as an argument.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.sources import PACKAGE

VOCABULARY = {
    "cache",
    "devices",
    "meters",
    "metrics",
    "units",
    "clock",
    "errors",
    "settings",
    "prices",
    "parsing",
    "files",
    "http_server",
    "supervise",
}
ROOMS: dict[str, set[str]] = {
    "energy": set(),
    "confidence": set(),
    "llm": {"confidence", "clients"},
    "schema": set(),
    "clients": {"energy", "schema"},
    "ollama": {"clients"},
    "gpu": {"energy", "schema"},
    "host": {"gpu", "energy", "schema"},
    "exporter": {"gpu", "host", "ollama", "energy", "schema"},
    "push": {"clients", "confidence", "energy", "llm", "schema"},
    "integrations": {"push", "llm", "schema"},
    "results": {"clients", "energy", "schema"},
    "mcpworld": {"push", "results", "gpu", "clients", "energy", "confidence", "schema"},
    "doctor": {"analysis", "schema"},
    "bench": {"push", "llm", "confidence", "mcpworld", "results", "clients", "stack", "schema"},
    "proxy": {"clients", "confidence", "llm", "push", "schema"},
    "stack": {"clients"},
    "profile": {"clients"},
    "analysis": {"results", "confidence", "schema"},
}
"""What each room may import beside the vocabulary; ``cli`` may import all, and no room imports ``cli``."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "pynvml": ("gpu/nvml.py",),
    "amdsmi": ("gpu/amd.py",),
    "requests": ("clients/", "ollama/", "llm/"),
    "pandas": ("results/",),
    "xllamacpp": ("bench/",),
    "llama_cpp": ("profile/llama.py",),
    "prometheus_client": ("metrics/families.py", "exporter/", "clients/pushgateway.py", "proxy/metrics.py"),
    "aiohttp": ("proxy/", "exporter/", "http_server.py"),
    "click": ("cli/",),
    "bfcl_eval": ("bench/bfcl/",),
    "numpy": ("analysis/", "clients/matrix.py", "doctor/", "energy/", "results/"),
    "sklearn": ("analysis/",),
    "scipy": ("analysis/",),
    "jinja2": ("analysis/report/page.py",),
    "plotly": ("analysis/report/figures.py",),
    "platformdirs": ("cache.py",),
    "wrapt": ("integrations/instrument.py",),
    "time": ("clock.py",),
}
EXPORTER_NEVER_LOADS = ("numpy", "pandas", "rich", "jsonschema", "pynvml", "requests", "joulebench.push", "joulebench.results")

HOOK_NEVER_LOADS = (
    "numpy",
    "requests",
    "urllib3",
    "prometheus_client",
    "http.client",
    "ssl",
    "asyncio",
    "joulebench.llm.readers",
)


@dataclass(frozen=True)
class Import:
    path: Path
    line: int
    module: str

    @property
    def file(self) -> str:
        return str(self.path.relative_to(PACKAGE))

    @property
    def room(self) -> str:
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports() -> Iterator[Import]:
    """Every import of the package, those inside functions too, with ``from package import module`` as package.module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import():
                    for alias in node.names:
                        yield Import(path, node.lineno, alias.name)
                case ast.ImportFrom():
                    assert node.level == 0, f"{path}:{node.lineno}: write the whole name, not a relative import"
                    for alias in node.names:
                        yield Import(path, node.lineno, f"{node.module}.{alias.name}")


FOUND = tuple(imports())


def inner(found: Import) -> str | None:
    """The room or vocabulary module that an import of our own reaches; "" for the package itself (its public face)."""
    parts = found.module.split(".")
    if parts[0] != "joulebench":
        return None
    if len(parts) == 1:
        return ""
    return parts[1] if (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists() else ""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_direction_allows(room: str) -> None:
    allowed = VOCABULARY | ROOMS[room] | {room, ""}
    own = [(found, target) for found in FOUND if found.room == room and (target := inner(found)) is not None]
    wrong = [str(found) for found, target in own if target not in allowed]
    assert not wrong, f"{room} may import {', '.join(sorted(allowed - {room, ''}))}:\n" + "\n".join(wrong)


def test_every_room_has_a_direction() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms - VOCABULARY == {*ROOMS, "cli"}, "a new room needs its line in ROOMS"


def test_the_vocabulary_imports_nothing_but_vocabulary() -> None:
    wrong = [
        str(found)
        for found in FOUND
        if found.room in VOCABULARY and (target := inner(found)) is not None and target not in VOCABULARY
    ]
    assert not wrong, "\n".join(wrong)


def test_the_declarations_of_metrics_need_the_standard_library_only() -> None:
    wrong = [
        str(found)
        for found in FOUND
        if found.room == "metrics"
        and found.file != "metrics/families.py"
        and found.module.split(".")[0] not in sys.stdlib_module_names
        and inner(found) != "metrics"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_but_the_entry_point_reaches_the_command_line() -> None:
    wrong = [str(found) for found in FOUND if inner(found) == "cli" and found.room not in ("cli", "__main__")]
    assert not wrong, "\n".join(wrong)


def test_the_version_is_printed_without_loading_a_command() -> None:
    code = (
        "import sys; sys.argv = ['joulebench', '--version']; from joulebench.__main__ import main; assert main() == 0;"
        " assert not {'click', 'numpy', 'rich', 'joulebench.cli'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("joulebench ")


@pytest.mark.parametrize("module", ONLY_IN)
def test_an_outside_thing_is_reached_from_its_own_files_only(module: str) -> None:
    wrong = [str(found) for found in FOUND if found.module.split(".")[0] == module and not found.file.startswith(ONLY_IN[module])]
    assert not wrong, f"{module} belongs in {', '.join(ONLY_IN[module])}:\n" + "\n".join(wrong)


def test_the_clock_is_read_in_one_place() -> None:
    """``datetime.now()`` and its kin are a hidden wall clock that a test cannot own."""
    hidden = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"(\w+\.)?(datetime|date)\.(now|utcnow|today)", ast.unparse(node))
    ]
    assert not hidden, "take a Clock:\n" + "\n".join(hidden)


def test_nobody_imports_tests_or_scripts() -> None:
    wrong = [str(found) for found in FOUND if found.module.split(".")[0] in ("tests", "scripts")]
    assert not wrong, "\n".join(wrong)


def test_the_exporter_starts_without_what_only_others_need() -> None:
    """It has to stay small beside a benchmark; pynvml and requests come when a GPU or an Ollama is there."""
    start = "joulebench.cli.exporter, joulebench.exporter.app, joulebench.gpu.monitor"
    assert _loaded_by(start, EXPORTER_NEVER_LOADS) == "[]"


def test_the_hook_of_a_task_loads_nothing_that_the_background_can_load() -> None:
    """What it loads at once is added to every task's process."""
    assert _loaded_by("joulebench.mcpworld.hook", HOOK_NEVER_LOADS) == "[]"


def _loaded_by(modules: str, names: Sequence[str]) -> str:
    """Returns those of ``names`` that are loaded with ``modules``, as a list is printed."""
    code = f"import sys, {modules}\nprint([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
