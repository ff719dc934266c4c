"""The tool calls of a reply judged as far as a reply alone can tell, each with its confidence.

ok: declared, well-formed and fitting the schema of its arguments. A call that the model server's parser dropped leaves only its
tokens, or text, behind; it counts too, as malformed or undeclared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from jsonschema import ValidationError
from jsonschema.validators import validator_for
from referencing import Registry

from joulebench.confidence.measures import CallConfidence, find_attempted_calls, find_unreported_calls, tool_call_confidences
from joulebench.parsing import Json
from joulebench.proxy.reply import Call, Reply


class Verdict(NamedTuple):
    """``outcome`` is one of ``metrics.TOOL_OUTCOMES`` but tool_error."""

    outcome: str
    confidence: CallConfidence


def verdicts(reply: Reply, tools: Mapping[str, Json]) -> list[Verdict]:
    if not tools and not reply.calls:
        return []
    calls = [call for _, call in sorted(reply.calls.items())]
    declared = list(tools)
    if calls:
        names = [call.name for call in calls]
        confidences = tool_call_confidences(reply.rows, names, declared)
        given = [Verdict(_outcome(call, tools), confidence) for call, confidence in zip(calls, confidences, strict=True)]
        left_out = find_unreported_calls(reply.rows, names, declared)
        return given + [Verdict(attempt.outcome, attempt.confidence) for _, attempt in left_out]
    # The parser took none. A whole call in plain text that it would have taken is none of the server's calls, hence malformed.
    attempts = find_attempted_calls(reply.rows or reply.content, declared)
    return [Verdict("malformed" if attempt.outcome == "ok" else attempt.outcome, attempt.confidence) for attempt in attempts]


def _outcome(call: Call, tools: Mapping[str, Json]) -> str:
    if call.name not in tools:
        return "undeclared"
    arguments = call.parsed
    if arguments is None:
        try:
            arguments = json.loads(call.arguments) if call.arguments.strip() else {}
        except (ValueError, RecursionError):
            return "malformed"
    if not isinstance(arguments, dict):
        return "malformed"
    return "ok" if _fits(arguments, tools[call.name]) else "schema_invalid"


def _fits(arguments: Json, schema: Json) -> bool:
    """A schema that is none forbids nothing. References are looked up within the schema only, never fetched."""
    if not schema:
        return True
    try:
        validator_for(schema)(schema, registry=Registry()).validate(cast(Any, arguments))
    except ValidationError:
        return False
    except Exception:
        # What a broken schema raises is not to be foreseen; the call is not to blame for it.
        return True
    return True
