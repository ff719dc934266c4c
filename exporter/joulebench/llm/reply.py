"""The reply of a model server as one record, whatever API it came through, for the benchmark and the proxy alike.

Counts and times of the server come first; what it does not report is derived from the arrival of the stream or is None. A count
of 0 that cannot be true is None, and ``problem`` says so.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from joulebench.confidence.tokens import TokenLogprob
from joulebench.units import Seconds

NOT_JSON = "not_json"
TOO_LARGE = "too_large"
ENCODING = "encoding"
IMPOSSIBLE_ZERO = "impossible_zero"
ONE_CHOICE = "one_choice"
"""Values of ``Reply.problem``."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the model. ``arguments`` is None where the text is not JSON; ``problem`` then says why.

    Parsed arguments may be any JSON value: that they have to be an object is checked against the tool's schema.
    """

    name: str
    raw_arguments: str
    arguments: object = None
    problem: str = ""
    call_id: str = ""
    left_out: bool = False
    """True for a call that the model wrote and the server did not report; ``raw_arguments`` is then the text of the reply."""


@dataclass(slots=True)
class TokenArrivals:
    """Arrival times of the stream events that can carry a token, by the monotonic clock; ``gaps`` are seconds between them.

    ``on_first`` is called at the first arrival.
    """

    first: float | None = None
    last: float | None = None
    gaps: array[float] = field(default_factory=lambda: array("d"))
    on_first: Callable[[], None] | None = None

    def add(self, now: float) -> None:
        if self.last is None:
            self.first = now
            if self.on_first is not None:
                self.on_first()
        else:
            self.gaps.append(now - self.last)
        self.last = now

    @property
    def count(self) -> int:
        return 0 if self.first is None else len(self.gaps) + 1

    def decode_time(self, completion_tokens: int | None) -> tuple[Seconds | None, int | None]:
        """Returns the seconds from first to last token and the tokens generated in them; (None, None) where fewer than half of
        the tokens came in events of their own."""
        if self.first is None or self.last is None or completion_tokens is None or self.last <= self.first:
            return None, None
        if self.count < 2 or self.count < completion_tokens / 2 or completion_tokens < 2:
            return None, None
        return Seconds(self.last - self.first), completion_tokens - 1


@dataclass(slots=True)
class Reply:
    """One reply. Fields that the server did not report are None.

    ``rows``: one logprob row per token, markers included; None without logprobs. ``decode_tokens`` and ``prefill_tokens`` are the
    tokens that ``decode_seconds`` and ``prefill_seconds`` cover. ``first_token_seconds``: from the request to the first token,
    only where tokens were seen to arrive one after another. ``complete``: the reply ended as its API ends a reply. ``error``: the
    server's error message. ``response_id``: the server's own id of the reply, not always unique. ``remote_host``: where another
    host ran the model (Ollama cloud). ``context_full``: the reply was cut off by a full context before its own maximum length.
    ``choices``: as many as arrived (``n``, or a list of prompts).
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    rows: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    prefill_seconds: Seconds | None = None
    prefill_tokens: int | None = None
    decode_seconds: Seconds | None = None
    decode_tokens: int | None = None
    load_seconds: Seconds | None = None
    other_seconds: Seconds | None = None
    finish_reason: str = ""
    first_token_seconds: Seconds | None = None
    complete: bool = False
    error: str | None = None
    problem: str | None = None
    problem_detail: str = ""
    remote_host: str = ""
    response_id: str = ""
    choices: int = 1
    context_full: bool = False
    arrivals: TokenArrivals = field(default_factory=TokenArrivals)

    @property
    def has_output(self) -> bool:
        """Whether the model generated anything that was seen."""
        return bool(self.text or self.tool_calls or self.rows or self.arrivals.count)

    def note_problem(self, problem: str, detail: str = "") -> None:
        """Records the first problem; later ones often follow from it."""
        if self.problem is None:
            self.problem, self.problem_detail = problem, detail
