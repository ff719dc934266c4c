"""Every command of ``joulebench`` by its words, and a parser for its arguments that runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from joulebench import cli


def _paths(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if words:
        yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _paths(child, (*words, name))


COMMAND_PATHS = tuple(_paths(cli.joulebench, ()))


def parse(arguments: Sequence[str]) -> click.Context:
    """Parses ``arguments`` of ``joulebench`` without running the command. Raises click.UsageError."""
    words = list(arguments)
    command: click.Command | None = cli.joulebench
    context = click.Context(cli.joulebench, info_name="joulebench", **cli.joulebench.context_settings)
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"joulebench has no command {name}"
        context = click.Context(command, parent=context, info_name=name)
    assert command is not None
    return command.make_context(context.info_name, words, parent=context.parent)
