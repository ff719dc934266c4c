"""What the benchmark says, as plain text: on the terminal as it comes and whole in ``.build/bench/report.txt``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from joulebench import __version__
from joulebench.clock import Clock

WIDTH = 132


@dataclass(frozen=True, slots=True)
class Target:
    """Told beside what was measured, never asserted: a busy machine is no defect. ``measured`` None: not measured."""

    what: str
    limit: float
    measured: float | None
    unit: str
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        return "met" if (self.measured >= self.limit if self.at_least else self.measured <= self.limit) else "MISSED"

    @property
    def shown_limit(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}"

    @property
    def shown_measured(self) -> str:
        return "-" if self.measured is None else f"{self.measured:.3g} {self.unit}"


class Report:
    """Open in ``with``. ``targets`` fill as the parts run and are told by ``verdict`` at the end."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.targets: list[Target] = []
        self._sink = file.open("w", encoding="utf-8")
        self._consoles = (
            Console(width=WIDTH, highlight=False, markup=False),
            Console(file=self._sink, width=WIDTH, highlight=False, markup=False, no_color=True),
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sink.close()

    def heading(self, text: str) -> None:
        self.say(f"\n{text}\n{'=' * len(text)}")

    def say(self, text: str) -> None:
        for console in self._consoles:
            console.print(text)
        self._sink.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """The first column to the left, the others to the right."""
        table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        for console in self._consoles:
            console.print(table)

    def machine(self, clock: Clock) -> None:
        when = datetime.fromtimestamp(clock.unix(), timezone.utc)
        self.say(
            f"Joulebench {__version__}, {when:%Y-%m-%d %H:%M} UTC, Python {platform.python_version()},"
            f" {platform.system()} {platform.release()} {platform.machine()}\n"
            f"{os.cpu_count()} cores: {_processor()}; load average at the start {os.getloadavg()[0]:.2f}"
        )

    def verdict(self) -> None:
        if not self.targets:
            return
        self.heading("Targets")
        rows = [(one.what, one.shown_limit, one.shown_measured, one.verdict) for one in self.targets]
        self.table(("target", "limit", "measured", ""), rows)


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
