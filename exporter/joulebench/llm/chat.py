"""The conversation with a model and the client's interface: messages in, one ``Reply`` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from joulebench.errors import ModelError
from joulebench.llm.reply import Reply, ToolCall
from joulebench.parsing import Json
from joulebench.units import Seconds

__all__ = [
    "TOOL_MODES",
    "CallTimeout",
    "ChatModel",
    "ContextFull",
    "Json",
    "Message",
    "ModelRefused",
    "ModelUnreachable",
    "Reply",
    "ReplyBroken",
    "ToolCall",
    "ToolMode",
    "ToolSpec",
]

ToolMode = Literal["native", "prompt"]
TOOL_MODES: tuple[ToolMode, ...] = ("native", "prompt")


class CallTimeout(ModelError):
    """The time for a call was over before the reply was complete."""


class ModelUnreachable(ModelError):
    """No connection to the server."""


class ReplyBroken(ModelError):
    """The connection closed, or the reply was an error or could not be read, although a connection existed.

    ``has_begun``: tokens had arrived before that.
    """

    def __init__(self, message: str, *, has_begun: bool = False) -> None:
        super().__init__(message)
        self.has_begun = has_begun


class ModelRefused(ModelError):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


class ContextFull(ModelError):
    """The conversation, or the reply to it, does not fit the context of the server: no verdict on the model."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is declared to the model; ``parameters`` is a JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation. ``text`` of role ``tool`` is the result of the tool ``tool_name``."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    call_id: str = ""


class ChatModel(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def configuration(self) -> Json:
        """The settings that results depend on beside the model: tool mode, stream, temperature, ..."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the server refused and was left out, such as logprobs; for the report at the end of a run."""
        ...

    def reply(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], first_token: Callable[[], None], deadline: Seconds
    ) -> Reply:
        """Makes one call. ``first_token`` is called when the first token arrives, where the stream shows it.

        ``deadline``: monotonic time after which the call is given up. Raises ModelError.
        """
        ...
