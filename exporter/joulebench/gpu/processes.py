"""Whose programs use a GPU: known model servers, foreign programs, and processes that have no name here.

Pure but for /proc. A program is known by its own name or by that of one of its parents, since servers start helpers that are
called just python. A process that cannot be named, such as one of another container, is unknown and never called foreign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from joulebench.units import Ratio, Seconds

KNOWN_SERVERS = (
    r"ollama|llama[-_]?server|llama[-_.]cpp|llama[-_]swap|llama_cpp|llamafile|llama-box|koboldcpp|vllm|sglang|text[-_]generation"
    r"|tritonserver|trtllm|tensorrt[-_]llm|lmdeploy|lm[-_ ]?studio|local-?ai|mlc[-_]llm|exllama|tabbyapi|aphrodite|joulebench"
)
"""What a known server's name has in it, in any case."""
GENERATIONS = 6
"""Parents that are looked at: a helper of a helper of a server."""
_INTERPRETER = re.compile(r"(python|pypy|node|ruby|perl|java|bash|sh)[\d.]*")
_WHOLE = 100
"""Of the SM use that NVML tells; what lies above it was never measured."""


class ProcessUse(NamedTuple):
    """``at``: unix time up to which the driver saw it; ``sm``: share of the SMs' time. None where it only says who is there."""

    pid: int
    at: Seconds | None
    sm: Ratio | None


class Verdict(Enum):
    KNOWN = "known"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Users:
    """Of one GPU between two looks. ``foreign``: names by pid, for the log alone. ``sm``: their share of the SMs, None where the
    card cannot tell. ``unnamed``: processes without a name. ``used``: unix times of the first and the last foreign use; None
    without any, or where the card cannot tell when."""

    foreign: dict[int, str]
    unnamed: int
    sm: Ratio | None
    used: tuple[Seconds, Seconds] | None


class ProcessNames:
    """``more``: asked where /proc does not tell; returns None for a process it cannot name either."""

    def __init__(
        self, known: re.Pattern[str], more: Callable[[int], str | None] = lambda _: None, proc: Path = Path("/proc")
    ) -> None:
        self._known = known
        self._more = more
        self._proc = proc

    def judge(self, pid: int) -> tuple[Verdict, str]:
        """The verdict, and the program's short name."""
        name = self.name(pid)
        if name is None:
            return Verdict.UNKNOWN, ""
        at: int | None = pid
        for _ in range(GENERATIONS):
            if at is None or at <= 1:
                break
            if self._known.search(self.name(at) or ""):
                return Verdict.KNOWN, name
            at = self._parent(at)
        return Verdict.FOREIGN, name

    def name(self, pid: int) -> str | None:
        """The program, and what an interpreter runs; never its other arguments, which are nobody's business."""
        try:
            words = (self._proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not words[0]:
                return (self._proc / str(pid) / "comm").read_text(errors="replace").strip() or None
        except OSError:
            told = self._more(pid)
            return short_name([told]) if told else None
        return short_name(words)

    def _parent(self, pid: int) -> int | None:
        try:
            stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
            return int(stat.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None


def short_name(words: Sequence[str]) -> str:
    """``/usr/bin/python3 -u -m vllm.entrypoints.api --model x`` as ``python3 vllm.entrypoints.api``."""
    # A program that sets its own title has it all in one word.
    title = words[0].split(" ")[0] if " " in words[0] and not words[0].startswith("/") else words[0]
    program = title.rpartition("/")[2]
    if not _INTERPRETER.fullmatch(program):
        return program
    options = iter(words[1:])
    for word in options:
        if word == "-m":
            return f"{program} {next(options, '')}".rstrip()
        if word == "-c":
            break
        if word and not word.startswith("-"):
            return f"{program} {word.rpartition('/')[2]}"
    return program


def users(uses: Sequence[ProcessUse], names: ProcessNames, own_pid: int) -> Users:
    """Who used the GPU, by all that was told of it since the last look."""
    sm: dict[int, list[float]] = {}
    times: dict[int, list[Seconds]] = {}
    for use in uses:
        if use.pid in (0, own_pid) or (use.sm is not None and not 0 < use.sm <= 1):
            continue
        sm.setdefault(use.pid, []).extend([] if use.sm is None else [use.sm])
        times.setdefault(use.pid, []).extend([] if use.at is None else [use.at])
    judged = {pid: names.judge(pid) for pid in sm}
    foreign = {pid: name for pid, (verdict, name) in judged.items() if verdict is Verdict.FOREIGN}
    told = all(use.sm is not None for use in uses)
    used = [at for pid in foreign for at in times[pid]]
    return Users(
        foreign=foreign,
        unnamed=sum(verdict is Verdict.UNKNOWN for verdict, _ in judged.values()),
        sm=Ratio(min(1.0, sum(sum(sm[pid]) / len(sm[pid]) for pid in foreign))) if told else None,
        used=(min(used), max(used)) if used else None,
    )


def use_of(pid: int, at_us: int, sm_percent: int) -> ProcessUse:
    """One of NVML's samples. What was never measured is no use at all."""
    return ProcessUse(pid, Seconds(at_us / 1e6), Ratio(sm_percent / _WHOLE if sm_percent <= _WHOLE else 0.0))
