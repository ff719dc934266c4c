"""Generation time and throughput with their honest definitions, beside the client's names for other things.

The client divides completion tokens by the whole latency of a call, with queue, load and prefill in it, and calls the latency its
time to first token. Here each rate says what it is a rate of, and stands only where its time was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from joulebench.results.hardware import ratio
from joulebench.results.journal import number
from joulebench.results.task import Event

DEFINITIONS = {
    "end_to_end_tokens_per_second": "completion tokens / time from request to whole reply, over calls that report both",
    "decode_tokens_per_second": "completion tokens after the first / time after the first token, over calls where that was timed",
    "prefill_tokens_per_second": "prompt tokens / prompt evaluation as the server timed it",
    "ttft_ms": "request to first streamed token; not told for whole replies, whose first token nobody saw",
}


def generation(events: Sequence[Event], raw_first_tokens: int) -> dict[str, Any]:
    """``events`` as ``calls.journal_events`` gives them; ``raw_first_tokens``: how many the client stamped."""
    calls = [event for event in events if event["event_type"] == "LLM_QUERY_END" and event.get("status") == "success"]
    timed = [(t, s) for c in calls if (t := _of(c, "completion_tokens")) is not None and (s := _of(c, "duration_seconds"))]
    decoded = [(t, s) for c in calls if (t := _of(c, "decode_tokens")) is not None and (s := _of(c, "decode_seconds"))]
    prefilled = [(t, s) for c in calls if (t := _of(c, "prompt_tokens")) is not None and (s := _of(c, "prefill_seconds"))]
    ttfts = [1000 * t for call in calls if (t := _of(call, "ttft_seconds")) is not None]
    seconds = [s for call in calls if (s := _of(call, "duration_seconds")) is not None]
    return {
        "llm_calls": sum(event["event_type"] == "LLM_QUERY_START" for event in events),
        "llm_calls_finished": len(calls),
        "generation_seconds": sum(seconds) if seconds else None,
        "end_to_end_tokens_per_second": _rate(timed),
        "decode_tokens_per_second": _rate(decoded),
        "decode_timed_calls": len(decoded),
        "prefill_tokens_per_second": _rate(prefilled),
        "prefill_timed_calls": len(prefilled),
        "ttft_measured_calls": len(ttfts),
        "ttft_stamped_with_whole_reply": max(raw_first_tokens - len(ttfts), 0),
        "avg_ttft_ms": sum(ttfts) / len(ttfts) if ttfts else None,
        "min_ttft_ms": min(ttfts, default=None),
        "max_ttft_ms": max(ttfts, default=None),
        "definitions": DEFINITIONS,
    }


def _of(event: Event, name: str) -> float | None:
    return number(event.get(name))


def _rate(pairs: Sequence[tuple[float, float]]) -> float | None:
    return ratio(sum(tokens for tokens, _ in pairs), sum(seconds for _, seconds in pairs)) if pairs else None
