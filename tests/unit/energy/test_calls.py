"""Where load, prefill and decode of a call lie, for every mixture of what server and client can tell."""

from __future__ import annotations

import math

import pytest

from joulebench.energy.calls import LlmCall, Piece, pieces, reported_parts

SERVER = LlmCall(10.0, 20.0, load_seconds=2.0, prefill_seconds=1.0, decode_seconds=5.0)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (SERVER, [Piece("load", 12.0, 14.0), Piece("prefill", 14.0, 15.0), Piece("decode", 15.0, 20.0)]),
        (
            LlmCall(10.0, 20.0, prefill_seconds=1.0, decode_seconds=5.0),
            [Piece("prefill", 14.0, 15.0), Piece("decode", 15.0, 20.0)],
        ),
        # The server's durations count before the client's first token, which has the network in it.
        (
            LlmCall(10.0, 20.0, prefill_seconds=1.0, decode_seconds=5.0, ttft_seconds=5.5),
            [Piece("prefill", 14.0, 15.0), Piece("decode", 15.0, 20.0)],
        ),
        (LlmCall(10.0, 20.0, ttft_seconds=3.0), [Piece("prefill", 10.0, 13.0, True), Piece("decode", 13.0, 20.0, True)]),
        # A decode time beside a first token and no prefill time is the client's own.
        (
            LlmCall(10.0, 20.0, ttft_seconds=3.0, decode_seconds=7.0),
            [Piece("prefill", 10.0, 13.0, True), Piece("decode", 13.0, 20.0, True)],
        ),
        (
            LlmCall(10.0, 20.0, ttft_seconds=3.0, load_seconds=2.0),
            [Piece("load", 10.0, 12.0, True), Piece("prefill", 12.0, 13.0, True), Piece("decode", 13.0, 20.0, True)],
        ),
        (
            LlmCall(10.0, 20.0, ttft_seconds=3.0, prefill_seconds=1.0),
            [Piece("prefill", 12.0, 13.0, True), Piece("decode", 13.0, 20.0, True)],
        ),
        (LlmCall(10.0, 20.0, decode_seconds=7.0), [Piece("llm_unsplit", 10.0, 13.0), Piece("decode", 13.0, 20.0)]),
        (LlmCall(10.0, 20.0), [Piece("llm_unsplit", 10.0, 20.0)]),
        (LlmCall(10.0, 20.0, prefill_seconds=1.0, load_seconds=1.0), [Piece("llm_unsplit", 10.0, 20.0)]),
        # A prompt served from the cache, and an answer without a token.
        (LlmCall(10.0, 20.0, prefill_seconds=0.0, decode_seconds=5.0), [Piece("decode", 15.0, 20.0)]),
        (LlmCall(10.0, 20.0, prefill_seconds=4.0, decode_seconds=0.0), [Piece("prefill", 16.0, 20.0)]),
        # Longer than the call: what lies before its start is cut off.
        (
            LlmCall(10.0, 20.0, load_seconds=5.0, prefill_seconds=4.0, decode_seconds=8.0),
            [Piece("prefill", 10.0, 12.0), Piece("decode", 12.0, 20.0)],
        ),
        (LlmCall(10.0, 20.0, ttft_seconds=30.0), [Piece("prefill", 10.0, 20.0, True)]),
        # Durations that cannot be are not known.
        (LlmCall(10.0, 20.0, decode_seconds=-1.0, prefill_seconds=math.nan), [Piece("llm_unsplit", 10.0, 20.0)]),
        (LlmCall(10.0, 20.0, ttft_seconds=math.inf), [Piece("llm_unsplit", 10.0, 20.0)]),
        (LlmCall(10.0, 10.0, ttft_seconds=1.0), []),
        (LlmCall(10.0, 9.0), []),
    ],
)
def test_parts_lie_back_from_the_end_of_the_call(call: LlmCall, expected: list[Piece]) -> None:
    assert pieces(call) == expected


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (SERVER, {"load", "prefill", "decode"}),
        (LlmCall(0.0, 9.0, ttft_seconds=3.0), {"prefill", "decode"}),
        (LlmCall(0.0, 9.0, decode_seconds=3.0, load_seconds=1.0), {"decode"}),
        (LlmCall(0.0, 9.0, prefill_seconds=3.0), set()),
        (LlmCall(0.0, 9.0, prefill_seconds=0.0, decode_seconds=0.0, load_seconds=0.0), {"load", "prefill", "decode"}),
    ],
)
def test_what_a_call_tells_of_counts_even_if_it_took_no_time(call: LlmCall, parts: set[str]) -> None:
    assert reported_parts(call) == parts


def test_only_what_the_server_or_a_token_vouches_for_is_certain() -> None:
    assert all(piece.certain for piece in pieces(SERVER))
    assert [piece.certain for piece in pieces(LlmCall(0.0, 9.0, ttft_seconds=3.0))] == [False, True]
    assert [piece.certain for piece in pieces(LlmCall(0.0, 9.0))] == [False]
