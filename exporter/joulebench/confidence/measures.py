"""Confidence of each tool call, from the log probabilities of the call's own tokens.

Pure functions: logprob rows in, numbers out. The mean over all tokens says little, because punctuation, keys and copied text are
nearly certain. The decisive tokens are those that choose between the declared tool names and those of argument values. A call
whose tokens cannot be located, or carry no real probability, has no score; no other measure takes its place.

Measures are probabilities unless noted; those that cannot be computed are left out:

    call_decision  of the opener, that is of calling a tool at all          name_joint   of all name tokens
    name_branch    of the name tokens at which the declared names differ
    name_margin    nats between the first such token and its best competitor, -20 to 20
    name_choice    of that token among the alternatives that lead to a declared tool
    args_min       of the least likely argument-value token                 args_geo     geometric mean over those tokens
    sem_nll        nats of name, argument-name and value tokens together
    entropy_max    nats, highest over those tokens (a lower bound: tokens that the server does not list are one outcome)
    naive_mean     mean over all tokens of the reply, the baseline
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from joulebench.confidence.call_confidence import CallConfidence
from joulebench.confidence.call_finder import CallSpans, Span, after_thinking, find_call_spans
from joulebench.confidence.name_choice import name_measures
from joulebench.confidence.tokens import TokenLogprob, TokenText

__all__ = [
    "AttemptedCall",
    "CallConfidence",
    "TokenLogprob",
    "find_attempted_calls",
    "find_unreported_calls",
    "tool_call_confidences",
]

ARGUMENT_FLOOR_NATS = -10.0


@dataclass(frozen=True, slots=True)
class AttemptedCall:
    """A call as the model wrote it. ``outcome``: ok, malformed or undeclared, as in ``metrics.TOOL_OUTCOMES``; servers report
    only calls that are ok. ``name`` is None where no name could be read. ``text``: from its opener to its end."""

    name: str | None
    outcome: str
    confidence: CallConfidence
    tagged: bool = True
    """True behind a marker of a tool call, False for a bare object that looks like a call."""
    text: str = ""


def tool_call_confidences(rows: Sequence[TokenLogprob], names: Sequence[str], declared: Sequence[str]) -> list[CallConfidence]:
    """Returns one confidence for each call that the server reported, in the order of ``names``.

    ``rows``: all rows of the reply in order of generation. ``declared``: names of all tools of the request.
    """
    if not rows:
        return [CallConfidence("no_logprobs", name, None, {}) for name in names]
    tokens = TokenText(rows)
    calls = [call for call in find_call_spans(tokens.text) if call.complete]
    confidences = []
    cursor = after_thinking(tokens.text)
    for name in names:
        position = next((number for number, call in enumerate(calls) if _same(call.name, name)), None)
        if position is not None:
            confidences.append(_measure_call(tokens, calls[position], name, declared))
            cursor = calls[position].end
            del calls[: position + 1]
            continue
        at = tokens.text.find(name, cursor) if name else -1
        if at < 0:
            confidences.append(CallConfidence("not_found", name, None, {}))
            continue
        cursor = at + len(name)
        confidences.append(_measure_name(tokens, Span(at, cursor), name, declared))
    return confidences


def find_attempted_calls(reply: str | Sequence[TokenLogprob], declared: Sequence[str]) -> list[AttemptedCall]:
    """Returns every call that the model began, in order. Calls located in a plain text have no measures."""
    tokens = None if isinstance(reply, str) else TokenText(reply)
    text = reply if isinstance(reply, str) else TokenText(reply).text
    attempts = []
    for call in find_call_spans(text):
        name = next((tool for tool in declared if _same(call.name, tool)), None)
        if not call.tagged and name is None and not call.has_arguments:
            # An object that happens to have a name.
            continue
        outcome = "malformed" if not call.complete else "undeclared" if name is None else "ok"
        shown_name = name or call.name
        confidence = _measure_attempt(tokens, call, shown_name or "", declared)
        written = text[call.opener.start : call.end]
        attempts.append(AttemptedCall(shown_name, outcome, confidence, call.tagged, written))
    return attempts


def find_unreported_calls(
    rows: Sequence[TokenLogprob], names: Sequence[str], declared: Sequence[str]
) -> list[tuple[int, AttemptedCall]]:
    """Returns malformed and undeclared calls that the model wrote beside the calls that the server reported.

    Each comes with the number of reported calls before it. ``names``: of the reported calls. Empty unless all reported calls are
    located in order, so that no attempt is counted twice for a reply that is not understood.
    """
    unreported: list[tuple[int, AttemptedCall]] = []
    reported = 0
    for attempt in find_attempted_calls(rows, declared):
        if reported < len(names) and attempt.outcome == "ok" and attempt.name == names[reported]:
            reported += 1
        elif attempt.outcome != "ok" and attempt.tagged:
            unreported.append((reported, attempt))
    return unreported if reported == len(names) else []


def _measure_attempt(tokens: TokenText | None, call: CallSpans, name: str, declared: Sequence[str]) -> CallConfidence:
    if tokens is None or not tokens.rows:
        return CallConfidence("no_logprobs", name, None, {})
    if call.complete:
        return _measure_call(tokens, call, name, declared)
    if call.name_span is None:
        return CallConfidence("not_found", name, None, {})
    return _measure_name(tokens, call.name_span, name, declared)


def _measure_call(tokens: TokenText, call: CallSpans, name: str, declared: Sequence[str]) -> CallConfidence:
    assert call.name_span is not None
    values = _rows(tokens, call.values)
    semantic = _rows(tokens, (call.name_span, *call.keys, *call.values))
    if (status := _unusable_status(semantic)) is not None:
        return CallConfidence(status, name, None, {})
    measures = name_measures(tokens, call.name_span, _as_written(declared, call.name, name))
    opener = _rows(tokens, (call.opener,))
    if _unusable_status(opener) is None:
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


def _measure_name(tokens: TokenText, span: Span, name: str, declared: Sequence[str]) -> CallConfidence:
    """Measures a call of which only the name was located; it has no score."""
    if (status := _unusable_status(_rows(tokens, (span,)))) is not None:
        return CallConfidence(status, name, None, {})
    written = tokens.text[span.start : span.end]
    measures = {**name_measures(tokens, span, _as_written(declared, written, name)), **_naive_mean(tokens.rows)}
    return CallConfidence("partial", name, None, measures)


def _unusable_status(rows: Iterable[TokenLogprob]) -> str | None:
    """Returns the span status of tokens whose probability is not the model's choice; None where all are."""
    status = None
    for row in rows:
        if not row.is_real:
            return "speculative"
        if row.is_masked:
            status = "masked"
    return status


def _rows(tokens: TokenText, spans: Iterable[Span]) -> list[TokenLogprob]:
    """Returns the rows of the tokens in any of the spans, each once."""
    return [tokens.rows[index] for index in sorted({index for span in spans for index in tokens.indices_in(span)})]


def _naive_mean(rows: Sequence[TokenLogprob]) -> dict[str, float]:
    if _unusable_status(rows) is not None:
        return {}
    return {"naive_mean": math.fsum(row.probability for row in rows) / len(rows)}


def _identifier(name: str) -> str:
    """Returns the form of a tool's name in the prompt of gpt-oss."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _same(written: str | None, name: str) -> bool:
    return written is not None and (written == name or written == _identifier(name))


def _as_written(declared: Sequence[str], written: str | None, name: str) -> list[str]:
    return list(declared) if written == name else [_identifier(tool) for tool in declared]
