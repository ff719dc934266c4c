"""The parameter types and options that several commands share, and how errors of input are worded.

A value that cannot be used names its flag, or the environment variable that it came from, and says what to give instead.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from joulebench import settings
from joulebench.devices import ENV_GPUS, ENV_SERVER

if TYPE_CHECKING:
    from joulebench.meters import MeterFile

_COMMAND_PATH = "joulebench.command_path"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def setting_name(parameter: click.Parameter | None, context: click.Context | None) -> str:
    """The flag, argument or environment variable whose value is looked at, as the user wrote it."""
    if parameter is None:
        return "value"
    if context is not None and context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.ENVIRONMENT:
        return str(parameter.envvar)
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name


def usage_message(error: click.UsageError) -> str:
    """Returns one line that names the setting, what is wrong with it, and where the right form is documented."""
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{setting_name(error.param, error.ctx)}: {error.message}"
    command = "joulebench" if error.ctx is None else error.ctx.command_path
    return f"{error.format_message().rstrip('.')}; '{command} --help' lists what it takes"


class CommandGroup(click.Group):
    """A group that lists its commands in the order of their definition and notes which command is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[_COMMAND_PATH] = f"{ctx.command_path} {name}"
        return name, command, rest


def command_path(context: click.Context) -> str:
    """Returns the words of the command that was invoked below ``context``."""
    return str(context.meta.get(_COMMAND_PATH, context.command_path))


class Url(click.ParamType[str]):
    """An http(s) URL, without a trailing slash; ``none_allowed``: the word ``none`` means that there is no such server."""

    name = "URL"

    def __init__(self, *, none_allowed: bool = False) -> None:
        self._none_allowed = none_allowed

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        value = value.strip()
        if self._none_allowed and value == settings.NO_URL:
            return value
        return settings.http_url(value, setting_name(param, ctx))


class UrlList(click.ParamType[str]):
    """One or several http(s) URLs separated by commas, or the word ``none``."""

    name = "URL[,URL...]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.strip() == settings.NO_URL:
            return settings.NO_URL
        return ",".join(settings.http_url(word.strip(), setting_name(param, ctx)) for word in value.split(","))


class Directory(click.Path):
    """A directory that is there or can be made; a device is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.exists() and not path.is_dir():
            self.fail(f"{path} is no directory; give one that is, or that can be made", param, ctx)
        return path


class Address(click.ParamType[tuple[str, int]]):
    """``HOST:PORT`` to listen on, as (host, port)."""

    name = "HOST:PORT"

    def convert(self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        return value if isinstance(value, tuple) else settings.listen_address(value, setting_name(param, ctx))


class NumberOrAuto(click.ParamType[int]):
    """A whole number from ``low`` to ``high``, or ``auto``, which stands for the number ``auto``."""

    name = "N|auto"

    def __init__(self, low: int, high: int, auto: int) -> None:
        self._number = Number(int, low, high)
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return self._auto if value in ("auto", self._auto) else int(self._number.convert(value, param, ctx))


class Number(click.ParamType[int | float]):
    """A finite number of ``kind`` from ``low`` to ``high``, both included unless ``above`` leaves ``low`` out."""

    def __init__(
        self,
        kind: type[int] | type[float],
        low: float,
        high: float = math.inf,
        *,
        above: bool = False,
        unit: str = "",
        name: str = "",
    ) -> None:
        self._kind = kind
        self._low, self._high, self._above, self._unit = low, high, above, unit
        self.name = name or unit or "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = self._kind(value)
        except (ValueError, OverflowError):
            number = math.nan
        too_low = number <= self._low if self._above else number < self._low
        if not math.isfinite(number) or too_low or number > self._high:
            self.fail(f"{value} is not {self._expected}", param, ctx)
        return number

    @property
    def _expected(self) -> str:
        noun = ("a whole number" if self._kind is int else "a number") + (f" of {self._unit}" if self._unit else "")
        if math.isfinite(self._high):
            return f"{noun} between {self._low:g} and {self._high:g}"
        return f"{noun} above {self._low:g}" if self._above else f"{noun} of at least {self._low:g}"


URL = Url()
URL_OR_NONE = Url(none_allowed=True)
URL_LIST = UrlList()
ADDRESS = Address()
POSITIVE = Number(int, 1)
POSITIVE_SECONDS = Number(float, 0, above=True, unit="seconds")
SECONDS = Number(float, 0, unit="seconds")
WATTS = Number(float, 0, 1e6, above=True, unit="watts")
PORT = Number(int, 1, 65535, name="PORT")
FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
DIRECTORY = Directory(path_type=Path, file_okay=False)
PATH = click.Path(path_type=Path)


def prometheus_option(help_: str, default: str | None = settings.DEFAULT_PROMETHEUS_URL) -> Callable[[Decorated], Decorated]:
    return _server_option("--prometheus-url", settings.ENV_PROMETHEUS_URL, default, help_)


def gateway_option(
    help_: str = "Pushgateway.", default: str | None = settings.DEFAULT_GATEWAY_URL
) -> Callable[[Decorated], Decorated]:
    return _server_option("--gateway-url", settings.ENV_GATEWAY_URL, default, help_)


def exporter_option(help_: str, default: str | None = settings.DEFAULT_EXPORTER_URL) -> Callable[[Decorated], Decorated]:
    return _server_option("--exporter-url", settings.ENV_EXPORTER_URL, default, help_, URL_LIST)


def gpus_option(
    help_: str = "GPUs that serve the model: indices, UUIDs, beginnings of UUIDs or HOST:INDEX.",
) -> Callable[[Decorated], Decorated]:
    return click.option("--gpus", envvar=ENV_GPUS, show_envvar=True, metavar="GPU[,GPU...]", help=help_)


def server_option(help_: str) -> Callable[[Decorated], Decorated]:
    """The model server by which an exporter finds the GPUs of a task."""
    return click.option("--server", envvar=ENV_SERVER, show_envvar=True, metavar="HOST:PORT|URL", help=help_)


def _server_option(
    flag: str, variable: str, default: str | None, help_: str, kind: click.ParamType[str] = URL_OR_NONE
) -> Callable[[Decorated], Decorated]:
    """Without a default the option is opt-in, and the environment does not opt in."""
    envvar = None if default is None else variable
    option = click.option(flag, envvar=envvar, default=default, type=kind, show_envvar=True, help=help_)
    return lambda function: option(connections_option()(function))


def connections_option() -> Callable[[Decorated], Decorated]:
    """``--connections.file``, once for a command that has several servers."""
    option = click.option(
        "--connections.file",
        "connections_file",
        envvar=settings.ENV_CONNECTIONS_FILE,
        type=EXISTING_FILE,
        is_eager=True,
        expose_value=False,
        callback=_use_connections_file,
        show_envvar=True,
        help="YAML with addresses, credentials, tenants and certificates for Prometheus, Pushgateway and exporter.",
    )

    def add_once(function: Decorated) -> Decorated:
        parameters = getattr(function, "__click_params__", [])
        return function if any(parameter.name == "connections_file" for parameter in parameters) else option(function)

    return add_once


def _use_connections_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:  # noqa: ARG001
    """Puts the file and its addresses into the environment of the command, where clients and child processes find them."""
    if path is None:
        return
    environment = settings.connections_environment(path.resolve())
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(
        {name: value for name, value in environment.items() if name == settings.ENV_CONNECTIONS_FILE or not before[name]}
    )

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    context.call_on_close(restore)


def meters_option() -> Callable[[Decorated], Decorated]:
    """The option's value is ``meters``, the content of the file, empty without one."""
    return click.option(
        "--meters",
        envvar=settings.ENV_METERS,
        type=FILE,
        metavar="FILE",
        callback=_load_meters,
        show_envvar=True,
        help="YAML with meters of CPU, memory, host or wall in Prometheus (docs/METERS.md).",
    )


def _load_meters(context: click.Context, parameter: click.Parameter, path: Path | None) -> MeterFile:
    # Its schema takes longer to import than a command without meters takes to start.
    from joulebench.meters import MeterFile, load_meters

    return MeterFile() if path is None else load_meters(path, setting_name(parameter, context))


def runs_dir_option(help_: str = "Directory of all runs.") -> Callable[[Decorated], Decorated]:
    return click.option(
        "--runs-dir",
        envvar=settings.ENV_RUNS_DIR,
        default=settings.DEFAULT_RUNS_DIR,
        type=DIRECTORY,
        show_envvar=True,
        help=help_,
    )


def infrastructure_option() -> Callable[[Decorated], Decorated]:
    return click.option(
        "--infrastructure-tag",
        envvar=settings.ENV_INFRASTRUCTURE,
        show_envvar=True,
        metavar="TAG",
        help="Name of the machine or its set-up, for comparisons.",
    )


def format_option(*formats: str, help_: str = "Format of the output.") -> Callable[[Decorated], Decorated]:
    return click.option("--format", "output_format", type=click.Choice(formats), default=formats[0], help=help_)


def log_level_option() -> Callable[[Decorated], Decorated]:
    levels = click.Choice(["debug", "info", "warning", "error"])
    return click.option("--log.level", "log_level", type=levels, default="info", help="Least severity printed to stderr.")


def begin_logging(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
