"""``joulebench analyze bottlenecks|throttling|balance|kv-cache``: what holds the models of exported runs back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulebench.errors import UserError

if TYPE_CHECKING:
    from joulebench.analysis.bottlenecks.observed import Observed

HELP = {
    "bottlenecks": (
        "where the time of tasks goes, what the card could do, and what to try",
        "For each model the share of time in which the GPU waited for tools, queue or agent, prefill, decode and load; decode"
        " against the memory bandwidth of known cards; VRAM that is left; power and heat limits. Each finding has its evidence.",
    ),
    "throttling": (
        "decode rate inside against outside throttled spans, and what was lost",
        "Rates by model with 95 % intervals, seconds and tokens lost, temperature at onset, tasks left out for it.",
    ),
    "balance": (
        "how evenly several GPUs work",
        "Utilisation, power, VRAM and joules of each GPU, imbalance by task, and how long a card idled beside a busy one.",
    ),
    "kv-cache": (
        "context held after each turn, its bytes, and memory that grows where tokens do not",
        "Tokens by turn; bytes by the size of a token if it is given, else by the growth of VRAM; suspicion of leaks.",
    ),
}


def add(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, (help_, description) in HELP.items():
        parser = kinds.add_parser(name, help=help_, description=description.replace("%", "%%"))
        parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of exported runs, as runs/RUN_ID")
        parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
        if name == "bottlenecks":
            parser.add_argument(
                "--weights",
                action="append",
                default=[],
                metavar="MODEL=FILE|BYTES",
                help="size of a model's weights; may be repeated",
            )
        if name in ("bottlenecks", "kv-cache"):
            parser.add_argument(
                "--kv-token",
                action="append",
                default=[],
                metavar="MODEL=BYTES",
                help="bytes of one token in a model's KV cache; may be repeated",
            )


def run(args: argparse.Namespace) -> int:
    """0; findings are advice and no failure."""
    from joulebench.analysis.bottlenecks import observed

    for directory in args.runs:
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory; give the directory of an exported run, as runs/RUN_ID")
    sizes = {name: _sizes(getattr(args, name, []), f"--{name.replace('_', '-')}") for name in ("weights", "kv_token")}
    data, lines = _ANALYSES[args.analysis](observed.read(args.runs), sizes)
    print(json.dumps(data, indent=1, allow_nan=False) if args.format == "json" else "\n".join(lines))  # noqa: T201
    return 0


Sizes = Mapping[str, Mapping[str, float]]
Found = tuple[list[dict[str, Any]], list[str]]


def _bottlenecks(tasks: Sequence[Observed], sizes: Sizes) -> Found:
    from joulebench.analysis.bottlenecks import bottlenecks
    from joulebench.analysis.bottlenecks import show as show_limits

    found = bottlenecks.limits(tasks, bottlenecks.Known(sizes["weights"], sizes["kv_token"]))
    return [one.data() for one in found], [line for one in found for line in show_limits.bottlenecks(one)]


def _throttling(tasks: Sequence[Observed], _: Sizes) -> Found:
    try:
        from joulebench.analysis.bottlenecks import show as show_limits
        from joulebench.analysis.bottlenecks import throttling
    except ImportError as error:
        raise UserError(f"throttling needs {error.name}; install it with: pip install 'joulebench[analysis]'") from error

    found = throttling.throttling(tasks)
    return [one.data() for one in found], [line for one in found for line in show_limits.throttling(one)]


def _balance(tasks: Sequence[Observed], _: Sizes) -> Found:
    from joulebench.analysis.bottlenecks import balance
    from joulebench.analysis.bottlenecks import show as show_limits

    found = balance.balance(tasks)
    return [one.data() for one in found], [line for one in found for line in show_limits.balance(one)]


def _kv_cache(tasks: Sequence[Observed], sizes: Sizes) -> Found:
    from joulebench.analysis.bottlenecks import kv_cache
    from joulebench.analysis.bottlenecks import show as show_limits

    found = kv_cache.kv_cache(tasks, sizes["kv_token"])
    return [one.data() for one in found], [line for one in found for line in show_limits.kv_cache(one)]


_ANALYSES: dict[str, Callable[[Sequence[Observed], Sizes], Found]] = {
    "bottlenecks": _bottlenecks,
    "throttling": _throttling,
    "balance": _balance,
    "kv-cache": _kv_cache,
}


def _sizes(given: Sequence[str], flag: str) -> dict[str, float]:
    """``MODEL=BYTES``; of weights also ``MODEL=FILE``, whose size it is."""
    found = {}
    for one in given:
        model, _, told = one.rpartition("=")
        try:
            size = float(Path(told).stat().st_size) if flag == "--weights" and Path(told).is_file() else float(told)
        except ValueError:
            size = 0.0
        if not model or not 0 < size < 1e15:
            raise UserError(f"{flag}: {one!r} is not MODEL=BYTES" + (" or MODEL=FILE" if flag == "--weights" else ""))
        found[model] = size
    return found
