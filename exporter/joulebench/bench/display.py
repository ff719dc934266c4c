"""How a run goes, on the terminal: a table that stays in place, or one line for each task where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from joulebench.bench.agent import Outcome
from joulebench.bench.runner import Listener, passed

UNKNOWN = "-"
LIVE_ROWS = 30
_COLOURS = {"success": "green", "failure": "yellow", "timeout": "magenta", "error": "red"}


class Lines:
    """One line as each task ends."""

    def __init__(self, console: Console, planned: int) -> None:
        self._console = console
        self._planned = planned
        self._ended = 0

    def started(self, outcome: Outcome) -> None: ...

    def ended(self, outcome: Outcome) -> None:
        self._ended += 1
        task, status, turns, seconds, speed, confidence, _, reason = _cells(outcome)
        place = f"[{self._ended}/{self._planned}]"
        told = f"{place:>7} {task:<16} {status:<8} {turns:>2} turns {seconds:>7} {speed:>11} confidence {confidence:<5} {reason}"
        self._console.print(told.rstrip(), markup=False)


class LiveTable:
    """The last tasks of the run, drawn anew as they go on."""

    def __init__(self, planned: int) -> None:
        self._planned = planned
        self._outcomes: list[Outcome] = []

    def started(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)

    def ended(self, outcome: Outcome) -> None: ...

    def __rich__(self) -> Table:
        outcomes = list(self._outcomes)
        title = f"{len(outcomes)} of {self._planned} tasks begun, {passed(outcomes)} passed"
        # The reason takes what room is left: the numbers are never cut for it.
        table = Table(title=title, title_justify="left", box=SIMPLE, expand=True, padding=(0, 1, 0, 0))
        for name in ("task", "status", "turns", "time", "decode", "confidence", "energy"):
            table.add_column(name, justify="left" if name in ("task", "status") else "right", no_wrap=True)
        table.add_column("reason", ratio=1, no_wrap=True)
        for outcome in outcomes[-LIVE_ROWS:]:
            table.add_row(*_cells(outcome), style=_COLOURS.get(outcome.status))
        return table


@contextmanager
def progress(console: Console, planned: int, live: bool) -> Iterator[Listener]:
    """``live``: wanted; it is used only on a terminal."""
    if not (live and console.is_terminal):
        yield Lines(console, planned)
        return
    table = LiveTable(planned)
    with Live(table, console=console, refresh_per_second=4):
        yield table


def summary(outcomes: Sequence[Outcome]) -> str:
    """One sentence over all tasks; what is not known is left out."""
    tokens = sum(outcome.completion_tokens for outcome in outcomes)
    decode_seconds = sum(outcome.decode_seconds for outcome in outcomes)
    decode_tokens = sum(outcome.decode_tokens for outcome in outcomes)
    confidences = [score for outcome in outcomes for score in outcome.confidences]
    calls = sum(outcome.tool_calls for outcome in outcomes)
    told = [f"{passed(outcomes)} of {len(outcomes)} tasks passed", f"{calls} tool calls", f"{tokens} completion tokens"]
    if decode_seconds > 0:
        told.append(f"{decode_tokens / decode_seconds:.1f} tokens/s")
    if confidences:
        mean = sum(confidences) / len(confidences)
        told.append(
            f"tool confidence {min(confidences):.3f} to {max(confidences):.3f}, mean {mean:.3f} ({len(confidences)} calls)"
        )
    joules = [outcome.joules for outcome in outcomes]
    known = [value for value in joules if value is not None]
    if known:
        told.append(f"{sum(known):.0f} J over the {len(known)} tasks whose energy is known")
    return ", ".join(told)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    speed, joules = outcome.tokens_per_second, outcome.joules
    running = outcome.status == "unknown"
    return (
        outcome.task_id,
        "running" if running else outcome.status,
        str(outcome.turns),
        UNKNOWN if running else f"{outcome.duration_seconds:.1f} s",
        UNKNOWN if speed is None else f"{speed:.1f} tok/s",
        f"{min(outcome.confidences):.3f}" if outcome.confidences else UNKNOWN,
        UNKNOWN if joules is None else f"{joules:.1f} J",
        outcome.reason[:80].replace("\n", " "),
    )
