"""The confidence of one tool call as a record, apart from the functions that measure it: a benchmark may bring its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallConfidence:
    """``score`` is min(name_branch, args_min), name_branch alone for a call without arguments, and None unless ``span_status``
    is ok. Other statuses: ``partial`` (only the name was located), ``not_found``, ``no_logprobs``, ``speculative`` (tokens of the
    call were accepted from a draft and carry no probability), ``masked`` (a grammar left the model no choice of a token, so that
    its probability is not the model's)."""

    span_status: str
    name: str
    score: float | None
    measures: Mapping[str, float]
