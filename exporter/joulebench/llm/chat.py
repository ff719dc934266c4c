"""What the agent and every LLM server speak: messages in, one ``Reply`` out.

A field of ``Reply`` that the server did not give is None. ``first_token_seconds`` exists only where tokens were seen to arrive
one after another; the end of a reply is never taken for its first token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from joulebench.confidence.measures import TokenLogprob
from joulebench.errors import ModelError
from joulebench.units import Seconds

ToolMode = Literal["native", "prompt"]
TOOL_MODES: tuple[ToolMode, ...] = ("native", "prompt")

Json = dict[str, object]


class CallTimeout(ModelError):
    """The time given to a call was over before the reply was."""


class ModelUnreachable(ModelError):
    """No connection to the server."""


class ModelRefused(ModelError):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


class ContextFull(ModelError):
    """The conversation, or the reply to it, does not fit the context that the server gives it: no verdict on the model."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is declared to the model; ``parameters`` is a JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool call that the model tried. ``arguments`` is None where the text could not be parsed; ``problem`` says why.

    Parsed arguments may be any JSON value: that they must be an object is the schema check's business.
    """

    name: str
    raw_arguments: str
    arguments: object = None
    problem: str = ""
    call_id: str = ""
    left_out: bool = False
    """The server gave no such call; ``raw_arguments`` is then all that the model wrote in this reply."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation. ``text`` of role ``tool`` is the result of the tool ``tool_name``."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    tool_calls: tuple[ToolRequest, ...] = ()
    tool_name: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations as the server measured them, else first to last token by our clock (decode only).

    ``decode_tokens`` are the tokens that ``decode_seconds`` covers.
    """

    prefill_seconds: Seconds | None = None
    decode_seconds: Seconds | None = None
    decode_tokens: int | None = None
    load_seconds: Seconds | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a model. ``rows`` is None where the server gave no logprobs; else one row per token, markers included."""

    text: str
    tool_calls: tuple[ToolRequest, ...] = ()
    rows: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str = ""
    first_token_seconds: Seconds | None = None
    timings: Timings = field(default_factory=Timings)
    context_full: bool = False
    """Cut off by a full context, before its own longest length."""


class ChatModel(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def configuration(self) -> Json:
        """What results depend on beside the model: tool mode, stream, temperature, ..."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the server would not do and was given up, such as logprobs; for the report at the end of a run."""
        ...

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        """One call. ``first_token`` is called when the first token arrives, where that can be seen.

        ``deadline``: monotonic time after which the call is given up. Raises ModelError.
        """
        ...
