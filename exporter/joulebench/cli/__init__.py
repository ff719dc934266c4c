"""The ``joulebench`` command: loads only the room of the command that is asked for and turns errors into exit codes.

Real objects are built here and nowhere else. Exit codes: 0 done, 1 something outside failed or the answer is bad news, 2 bad
input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, cast

import click

from joulebench import __version__
from joulebench.cli.options import CommandGroup, command_path, usage_message
from joulebench.errors import JoulebenchError, UserError
from joulebench.parsing import printable_text

COMMANDS: dict[str, tuple[str, str]] = {
    "exporter": ("exporter", "serve GPU, energy and Ollama metrics to Prometheus"),
    "bench": ("bench", "run an LLM agent benchmark and push its metrics"),
    "range": ("bench", "run tasks FROM to TO of a suite on one or several models; resumable"),
    "proxy": ("proxy", "measure requests to a model server by run and task; bytes pass unchanged"),
    "export": ("export", "write result JSON and CSV of a finished run from Prometheus and the journal"),
    "annotate": ("annotate", "put joules beside each row of a table with start and end times"),
    "analyze": ("analyze", "compare and check finished runs, report on them, find what limits a model"),
    "mcpworld": ("mcpworld", "measure the MCPWorld client live or afterwards, and make its tables"),
    "stack": ("stack", "download, start and stop the programs around Joulebench, and write their configuration"),
    "demo": ("demo", "run the end-to-end demo; it serves a small model where there is no Ollama"),
    "profile": ("diagnostics", "time each layer of a model file, with the overhead of measuring"),
    "record-capture": ("diagnostics", "write this machine's NVML answers to a file for a bug report"),
}
"""Top-level command -> (module of this room, its one-line help, which is listed without loading the module)."""

ALIASES: dict[str, str] = {
    "compare": "analyze",
    "report": "analyze",
    "doctor": "analyze",
    "run": "mcpworld",
    "monitor": "mcpworld",
    "backfill": "mcpworld",
    "json-to-csv": "mcpworld",
    "collect-metrics": "mcpworld",
    "up": "stack",
    "down": "stack",
}
"""Short name -> the group that has the command of this name."""


class LazyGroup(CommandGroup):
    """A group that imports a command's module when the command is used, and prints the errors of all of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ALIASES:
            group = cast(click.Group, self._load(ALIASES[cmd_name]))
            return group.get_command(ctx, cmd_name)
        return self._load(cmd_name) if cmd_name in COMMANDS else None

    @staticmethod
    def _load(name: str) -> click.Command:
        module = importlib.import_module(f"joulebench.cli.{COMMANDS[name][0]}")
        return cast(click.Command, getattr(module, f"{name.replace('-', '_')}_command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])
        with formatter.section("Short names"):
            formatter.write_dl([(name, f"joulebench {group} {name}") for name, group in ALIASES.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            return _show_usage_error(error)
        except UserError as error:
            return _fail(2, ctx, error)
        except JoulebenchError as error:
            return _fail(1, ctx, error)
        except OSError as error:
            if error.filename is None:
                raise
            return _fail(2, ctx, f"{error.filename}: {error.strerror}; give a file or directory that can be used")
        except (KeyboardInterrupt, click.Abort):
            return _fail(130, ctx, "interrupted")


def _fail(code: int, ctx: click.Context, message: object) -> int:
    print(printable_text(f"{command_path(ctx)}: {message}"), file=sys.stderr)
    return code


def _show_usage_error(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        command = "joulebench" if error.ctx is None else error.ctx.command_path
        print(printable_text(f"{command}: {usage_message(error)}"), file=sys.stderr)
    return 2


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
    epilog="'joulebench COMMAND --help' describes a command.",
)
@click.version_option(__version__, message="joulebench %(version)s")
def joulebench() -> None:
    """Joules, tokens per second and tool-call confidence for every task of a self-hosted LLM benchmark."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that ``argv`` names, by default that of the process, and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return joulebench.main(arguments, prog_name="joulebench", standalone_mode=False) or 0
    except click.UsageError as error:
        return _show_usage_error(error)


if __name__ == "__main__":
    sys.exit(main())
