"""What a scripted model answers, token by token: the script of ``ModelServer``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

Json = dict[str, object]
Fault = Literal["cut", "error_mid_stream", "not_json", "http_500", "no_room", "stall", "hang_up"]
"""cut and stall: after half of the tokens the connection closes, or nothing more comes. hang_up: it closes without an answer.
no_room: the request is refused, since it does not fit the context."""

Logprobs = Literal["given", "refused", "refused_with_tools_and_stream", "ignored"]

MODEL = "scripted:1b"


@dataclass(frozen=True)
class Turn:
    """One answer. ``raw`` is the generated text, markers included; ``calls`` is what the server's own parser makes of it.

    ``chances``: probability of single tokens, by their text; every other token has ``chance``. ``silent_tokens`` are counted as
    completion tokens but have no text and no row, like an end token. ``first_token_after`` and ``token_gap`` are seconds.
    """

    raw: str
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    prompt_tokens: int = 100
    silent_tokens: int = 0
    chance: float = 0.99
    chances: Mapping[str, float] = field(default_factory=dict)
    first_token_after: float = 0.0
    token_gap: float = 0.0
    prefill_ms: float = 50.0
    decode_ms: float = 200.0
    load_ms: float = 0.0
    cached_tokens: int = 0
    fault: Fault | None = None
    finish_reason: str = "stop"

    @property
    def tokens(self) -> list[str]:
        return re.findall(r"\s*\w+|\s*[^\w\s]|\s+$", self.raw)

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) + self.silent_tokens

    def with_(self, **changes: object) -> Turn:
        return replace(self, **changes)  # type: ignore[arg-type]


def say(text: str) -> Turn:
    """An answer without a tool call."""
    return Turn(raw=text, content=text)


def call(name: str, **arguments: object) -> Turn:
    """A well-formed tool call."""
    return call_text(name, json.dumps(arguments))


def call_text(name: str, arguments: str) -> Turn:
    """A tool call whose arguments are this text, JSON or not."""
    raw = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
    return Turn(raw=raw, calls=((name, arguments),))


def swallowed(raw: str) -> Turn:
    """Text in which the server's parser found nothing that it would give out: only the logprob rows show it."""
    return Turn(raw=raw)


Script = Callable[[Json], Turn]


def by_instruction(turns: Mapping[str, Sequence[Turn]]) -> Script:
    """The k-th answer after the user message that is an instruction of ``turns``; the last one again where they run out.

    A conversation without such an instruction, such as a warm-up, is answered in words.
    """

    def choose(body: Json) -> Turn:
        messages = cast(list[dict[str, str]], body["messages"])
        places = [index for index, message in enumerate(messages) if message["role"] == "user" and message["content"] in turns]
        if not places:
            return say("ok")
        place = places[-1]
        answers = turns[messages[place]["content"]]
        spoken = sum(message["role"] == "assistant" for message in messages[place:])
        return answers[min(spoken, len(answers) - 1)]

    return choose
