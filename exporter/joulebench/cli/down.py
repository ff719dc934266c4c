"""``joulebench down``: ends what ``joulebench up`` started, and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from joulebench.cli.up import DEFAULT_DIRECTORY
from joulebench.stack import state


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, default=Path(DEFAULT_DIRECTORY), help="as given to 'up' (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    console = Console()
    ended = state.end(state.load(args.dir))
    state.forget(args.dir)
    console.print(f"ended {', '.join(one.name for one in ended)}" if ended else f"nothing runs from {args.dir}", highlight=False)
    return 0
