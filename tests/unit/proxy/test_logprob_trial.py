"""``--add-logprobs auto``: the first calls of a model say what logprobs cost, and later ones follow."""

from __future__ import annotations

import pytest
import requests

from joulebench.llm.logprob_cost import AUTO_LOGPROBS, logprob_cost
from joulebench.proxy.rewrite import MEASURED_CALLS
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import Json, Turn, call
from tests.unit.proxy.conftest import StartProxy
from tests.unit.proxy.seen import wait_for

TOOLS = [{"type": "function", "function": {"name": "finish", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_logprobs_are_added_where_the_first_calls_show_them_cheap(start_proxy: StartProxy, gap: float) -> None:
    """Each token takes ``gap`` seconds longer with logprobs."""

    def turn(body: Json) -> Turn:
        return call("finish", answer="7").with_(token_gap=gap if body.get("logprobs") else 0.0)

    body = {"model": "m", "messages": [], "tools": TOOLS, "stream": True}
    with ModelServer(turn) as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=AUTO_LOGPROBS)
        for number in range(2 * MEASURED_CALLS):
            reply = requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
            assert b"logprobs" not in reply.content
            proxy.wait_until_over(number + 1)
        asked = ["logprobs" in exchange.body for exchange in server.exchanges]
        assert asked == [True, False] * MEASURED_CALLS
        for _ in range(2):
            requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
        wait_for(lambda: len(server.exchanges) == 2 * MEASURED_CALLS + 2)
        assert ["logprobs" in exchange.body for exchange in server.exchanges[-2:]] == [not gap] * 2


def test_cost_is_by_completion_token_and_unknown_without_both() -> None:
    cost = logprob_cost([(2.0, 20), (2.2, 20), (9.0, 10)], [(1.0, 20), (0.5, 10)])
    assert cost is not None
    assert (cost.with_logprobs, cost.without, cost.tokens) == pytest.approx((2.2, 1.0, 20))
    assert not cost.is_cheap
    assert logprob_cost([(1.0, 5)], []) is None
