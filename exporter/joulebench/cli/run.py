"""``joulebench run``: starts a client whose evaluator is then measured live, with no line of it changed.

The command takes the place of this process, so signals and its exit code are its own. Every Python that it starts, however
deep, attaches to the evaluator it imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from joulebench import settings
from joulebench.clock import SystemClock
from joulebench.errors import UserError

OUR_PATHS = "JOULEBENCH_PYTHONPATH"
NEEDED = ("joulebench", "prometheus_client", "requests", "urllib3", "certifi", "idna", "charset_normalizer")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-id", metavar="ID", help="default: JOULEBENCH_RUN_ID, else made from the time")
    parser.add_argument("--suite", metavar="NAME", help="default: JOULEBENCH_SUITE, else mcpworld")
    parser.add_argument("--gateway-url", metavar="URL", help=f"Pushgateway (default: {settings.DEFAULT_GATEWAY_URL})")
    parser.add_argument("--prometheus-url", metavar="URL", help=f"or 'none' (default: {settings.DEFAULT_PROMETHEUS_URL})")
    parser.add_argument("--exporter-url", metavar="URL", help=f"or 'none' (default: {settings.DEFAULT_EXPORTER_URL})")
    parser.add_argument("--runs-dir", type=Path, metavar="DIR", help=f"default: {settings.DEFAULT_RUNS_DIR}")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the client, as it is always started")


def run(args: argparse.Namespace) -> int:
    """Does not return: the command's exit code is the answer. 2 where it cannot be started."""
    from joulebench.mcpworld.startup import __path__ as startup
    from joulebench.push import ids

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UserError("COMMAND: nothing to run; write it behind --, such as 'joulebench run -- python run_tasks.py'")
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"COMMAND: {command[0]!r} is no program that can be run; check its name and the PATH")
    asked = args.run_id or os.environ.get(settings.ENV_RUN_ID)
    run_id = ids.path_part(asked, "--run-id") if asked else ids.new_run_id(SystemClock().unix())
    runs_dir = (args.runs_dir or Path(settings.from_env(settings.ENV_RUNS_DIR, settings.DEFAULT_RUNS_DIR))).resolve()
    environment = {
        **os.environ,
        settings.ENV_RUN_ID: run_id,
        settings.ENV_RUNS_DIR: str(runs_dir),
        OUR_PATHS: os.pathsep.join(_our_paths()),
        "PYTHONPATH": os.pathsep.join([*startup, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if args.suite:
        environment[settings.ENV_SUITE] = args.suite
    for given, variable, default in (
        (args.gateway_url, settings.ENV_GATEWAY_URL, settings.DEFAULT_GATEWAY_URL),
        (args.prometheus_url, settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL),
        (args.exporter_url, settings.ENV_EXPORTER_URL, settings.DEFAULT_EXPORTER_URL),
    ):
        url = given or settings.from_env(variable, default)
        environment[variable] = url if url == settings.NO_URL else settings.http_url(url, variable)
    places = shlex.join(["--run-id", run_id, "--runs-dir", str(runs_dir)])
    print(f"joulebench run {run_id}; results afterwards: joulebench export {places}", file=sys.stderr, flush=True)  # noqa: T201
    os.execve(program, command, environment)


def _our_paths() -> list[str]:
    """Where joulebench and what its push room needs lie, for a client with another environment."""
    found: dict[str, None] = {}
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found[str(Path(spec.origin).resolve().parents[1])] = None
    return list(found)
