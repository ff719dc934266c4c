"""How sure the model was of each tool call, from the log probabilities of the call's own tokens.

Pure: rows in, numbers out. The mean over all tokens says little, because punctuation, keys and copied text are nearly certain;
here the tokens that decide are told apart: those that choose between the declared tool names, and those of argument values.
A call whose tokens are not found, or carry no real probability, has no score; nothing falls back to another measure.

Measures, probabilities unless noted; those that cannot be formed are left out:

    call_decision  of the opener, so of calling at all          name_joint   of all name tokens
    name_branch    of the name tokens at which declared names part
    name_margin    nats between the first such token and its best rival, -20 to 20
    name_choice    of that token among the rivals that lead to a declared tool
    args_min       of the least likely argument-value token     args_geo     geometric mean over those tokens
    sem_nll        nats of name, argument-name and value tokens together
    entropy_max    nats, highest over those tokens (a lower bound: what the server does not list is one outcome)
    naive_mean     mean over all tokens of the reply, the baseline
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from joulebench.confidence.rivals import name_measures
from joulebench.confidence.spans import FoundCall, Span, after_thinking, find_calls
from joulebench.confidence.tokens import TokenLogprob, TokenText

__all__ = [
    "AttemptedCall",
    "CallConfidence",
    "TokenLogprob",
    "attempted_calls",
    "calls_left_out",
    "tool_call_confidences",
]

ARGUMENT_FLOOR_NATS = -10.0


@dataclass(frozen=True, slots=True)
class CallConfidence:
    """``score`` is min(name_branch, args_min), name_branch alone for a call without arguments, and None unless ``span_status``
    is ok. Others: ``partial`` (only the name was found), ``not_found``, ``no_logprobs``, ``speculative`` (tokens of the call were
    accepted from a draft and carry no probability)."""

    span_status: str
    name: str
    score: float | None
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AttemptedCall:
    """A call as the model wrote it. ``outcome``: ok, malformed or undeclared, as in ``metrics.TOOL_OUTCOMES``; the server gives
    only the ok ones as tool calls and says nothing of the others. ``name`` is None where none was read."""

    name: str | None
    outcome: str
    confidence: CallConfidence
    tagged: bool = True
    """Whether it stood behind a mark of a call; else it is an object that looks like one."""


def tool_call_confidences(rows: Sequence[TokenLogprob], names: Sequence[str], declared: Sequence[str]) -> list[CallConfidence]:
    """One confidence for each call that the server gave, in its order.

    ``rows``: every row of the reply in order of generation. ``names``: of the calls. ``declared``: all tools that were offered.
    """
    if not rows:
        return [CallConfidence("no_logprobs", name, None, {}) for name in names]
    tokens = TokenText(rows)
    calls = [call for call in find_calls(tokens.text) if call.complete]
    confidences = []
    cursor = after_thinking(tokens.text)
    for name in names:
        position = next((number for number, call in enumerate(calls) if _same(call.name, name)), None)
        if position is not None:
            confidences.append(_of_call(tokens, calls[position], name, declared))
            cursor = calls[position].end
            del calls[: position + 1]
            continue
        at = tokens.text.find(name, cursor) if name else -1
        if at < 0:
            confidences.append(CallConfidence("not_found", name, None, {}))
            continue
        cursor = at + len(name)
        confidences.append(_of_name(tokens, Span(at, cursor), name, declared))
    return confidences


def attempted_calls(reply: str | Sequence[TokenLogprob], declared: Sequence[str]) -> list[AttemptedCall]:
    """Every call that was begun, in order; from a text alone without measures."""
    tokens = None if isinstance(reply, str) else TokenText(reply)
    text = reply if isinstance(reply, str) else TokenText(reply).text
    attempts = []
    for call in find_calls(text):
        name = next((tool for tool in declared if _same(call.name, tool)), None)
        if not call.tagged and name is None and not call.has_arguments:
            # An object that happens to have a name.
            continue
        whole = "undeclared" if name is None else "ok"
        shown = name or call.name
        attempts.append(
            AttemptedCall(
                shown, whole if call.complete else "malformed", _of_attempt(tokens, call, shown or "", declared), call.tagged
            )
        )
    return attempts


def calls_left_out(
    rows: Sequence[TokenLogprob], names: Sequence[str], declared: Sequence[str]
) -> list[tuple[int, AttemptedCall]]:
    """Broken and undeclared calls that the model wrote beside those that the server gave, and the server was silent about.

    Each with the number of given calls before it. ``names``: of the given ones. Empty unless all of those are found, in order:
    an attempt is never counted twice for a reply that is not understood.
    """
    found: list[tuple[int, AttemptedCall]] = []
    place = 0
    for attempt in attempted_calls(rows, declared):
        if place < len(names) and attempt.outcome == "ok" and attempt.name == names[place]:
            place += 1
        elif attempt.outcome != "ok" and attempt.tagged:
            found.append((place, attempt))
    return found if place == len(names) else []


def _of_attempt(tokens: TokenText | None, call: FoundCall, name: str, declared: Sequence[str]) -> CallConfidence:
    if tokens is None or not tokens.rows:
        return CallConfidence("no_logprobs", name, None, {})
    if call.complete:
        return _of_call(tokens, call, name, declared)
    if call.name_span is None:
        return CallConfidence("not_found", name, None, {})
    return _of_name(tokens, call.name_span, name, declared)


def _of_call(tokens: TokenText, call: FoundCall, name: str, declared: Sequence[str]) -> CallConfidence:
    assert call.name_span is not None
    values = _rows(tokens, call.values)
    semantic = _rows(tokens, (call.name_span, *call.keys, *call.values))
    if not all(row.is_real for row in semantic):
        return CallConfidence("speculative", name, None, {})
    measures = name_measures(tokens, call.name_span, _as_written(declared, call.name, name))
    opener = _rows(tokens, (call.opener,))
    if all(row.is_real for row in opener):
        measures["call_decision"] = math.exp(math.fsum(row.nats for row in opener))
    if values:
        floored = [max(row.nats, ARGUMENT_FLOOR_NATS) for row in values]
        measures["args_min"] = math.exp(min(floored))
        measures["args_geo"] = math.exp(math.fsum(floored) / len(floored))
    measures["sem_nll"] = -math.fsum(row.nats for row in semantic)
    entropies = [entropy for row in semantic if (entropy := row.entropy()) is not None]
    if entropies:
        measures["entropy_max"] = max(entropies)
    measures |= _naive_mean(tokens.rows)
    score = min(measures["name_branch"], measures.get("args_min", 1.0))
    return CallConfidence("ok", name, score, measures)


def _of_name(tokens: TokenText, span: Span, name: str, declared: Sequence[str]) -> CallConfidence:
    """For a call of which only the name can be placed: measures of the name, and no score."""
    if not all(row.is_real for row in _rows(tokens, (span,))):
        return CallConfidence("speculative", name, None, {})
    written = tokens.text[span.start : span.end]
    measures = {**name_measures(tokens, span, _as_written(declared, written, name)), **_naive_mean(tokens.rows)}
    return CallConfidence("partial", name, None, measures)


def _rows(tokens: TokenText, spans: Iterable[Span]) -> list[TokenLogprob]:
    """Each token once, however many of the spans it touches."""
    return [tokens.rows[index] for index in sorted({index for span in spans for index in tokens.over(span)})]


def _naive_mean(rows: Sequence[TokenLogprob]) -> dict[str, float]:
    if not all(row.is_real for row in rows):
        return {}
    return {"naive_mean": math.fsum(row.probability for row in rows) / len(rows)}


def _identifier(name: str) -> str:
    """The form in which gpt-oss is shown a tool's name."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _same(written: str | None, name: str) -> bool:
    return written is not None and (written == name or written == _identifier(name))


def _as_written(declared: Sequence[str], written: str | None, name: str) -> list[str]:
    return list(declared) if written == name else [_identifier(tool) for tool in declared]
