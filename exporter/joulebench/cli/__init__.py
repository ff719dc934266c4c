"""The ``joulebench`` command: picks a subcommand, loads only its room and turns errors into exit codes.

Each subcommand is a module in ``joulebench.cli`` with ``configure(parser)`` and ``run(args) -> int``; real objects are
built there and nowhere else. Exit codes: 0 done, 1 something outside failed or the answer is bad news, 2 bad input.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from joulebench import __version__
from joulebench.errors import JoulebenchError, UserError

COMMANDS: dict[str, str] = {
    "exporter": "serve GPU, energy and Ollama metrics to Prometheus",
    "bench": "run an LLM agent benchmark and push its metrics",
    "proxy": "meter every request to a model server by run and task, without changing its bytes",
    "export": "write result JSON and CSV of a finished run from Prometheus and the journal",
    "run": "start an unchanged MCPWorld client and measure its tasks live",
    "monitor": "write GPU and container readings to a CSV until it is told to stop",
    "backfill": "put energy into finished result files of the MCPWorld client, which is not changed",
    "json-to-csv": "make one table of all result files below a directory",
    "collect-metrics": "put a task's rows into the summary and metrics tables of its suite",
    "range": "run tasks FROM to TO of a suite on one or several models, going on where an earlier start ended",
    "compare": "compare runs or models task by task: joules per success and more, with intervals, or why they cannot be",
    "report": "make one page of finished runs: the verdict, charts, costs with sliders, and why what was left out",
    "doctor": "check whether finished results can be believed, and say how to mend what cannot",
    "analyze": "say what predicts the failures of finished runs, and what limits their models: waits, bandwidth, heat, memory",
    "profile": "time each layer of a model file, in prefill and in decode, with what the measuring costs",
    "stack": "download, start and stop the programs around Joulebench, and write out their configuration",
    "up": "start Prometheus, Pushgateway, Alertmanager and the exporter on this machine",
    "down": "stop what 'up' started",
    "demo": "run the whole of it once, with a small embedded model where there is no Ollama",
    "record-capture": "write this machine's NVML answers to a file for a bug report",
}


class Command(Protocol):
    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def load(name: str) -> Command:
    return cast(Command, importlib.import_module(f"joulebench.cli.{name.replace('-', '_')}"))


def parser_for(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"joulebench {name}", description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.")
    load(name).configure(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {help_}" for name, help_ in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="joulebench",
        description="Joules, tokens per second and tool-call confidence for every task of a self-hosted LLM benchmark.",
        epilog=f"commands:\n{listing}\n\n'joulebench COMMAND --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"joulebench {__version__}")
    top.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of the commands below")
    name = top.parse_args(arguments[:1]).command
    try:
        return load(name).run(parser_for(name).parse_args(arguments[1:]))
    except UserError as error:
        print(f"joulebench {name}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except JoulebenchError as error:
        print(f"joulebench {name}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print(f"joulebench {name}: interrupted", file=sys.stderr)  # noqa: T201
        return 130


if __name__ == "__main__":
    sys.exit(main())
