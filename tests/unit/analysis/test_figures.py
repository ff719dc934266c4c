"""Pictures of a report: they hold what they are given, stay within their frame, and never let a simulated GPU pass."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from joulebench.analysis.report import figures


def model(label: str, joules: float, rate: float, *, pareto: bool = False, high: float | None = None) -> dict[str, Any]:
    bounds = {"value": joules, "low": 0.8 * joules, "high": high}
    shares = {"prefill": 0.25, "decode": 0.75}
    return {
        "label": label,
        "pareto": pareto,
        "measures": {
            "joules_per_success": bounds,
            "success_rate": {"value": rate, "low": rate - 0.1, "high": min(1.0, rate + 0.1)},
        },
        "joules_share": shares,
        "seconds_share": shares,
    }


MODELS = [
    model("<b>thrifty", 100.0, 0.9, pareto=True, high=130.0),
    model("dear", 5000.0, 0.9, high=1e9),
    model("open", 70.0, 0.2),
]


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)


def test_the_front_has_each_model_and_its_star() -> None:
    figure = parsed(figures.front(MODELS, simulated=False))
    titles = [one.text or "" for one in figure.iter("title")]
    assert [title.partition(":")[0] for title in titles] == ["<b>thrifty", "dear", "open"]
    assert titles[0] == "<b>thrifty: 100 J per success, 90.0 % success"
    assert [one.tag for one in figure.iter() if one.find("title") is not None] == ["path", "circle", "circle"]
    across = [float(x) for x in re.findall(r'cx="([\d.]+)"', figures.front(MODELS, simulated=False))]
    assert all(figures.LEFT <= x <= figures.WIDTH - figures.RIGHT for x in across)
    assert figures.front([], simulated=False) == ""


def test_an_interval_without_end_is_drawn_open_and_a_wide_one_does_not_hide_the_others() -> None:
    drawn = figures.front(MODELS, simulated=False)
    assert drawn.count('stroke-dasharray="5 4"') == 1
    assert "20,000" not in drawn


def test_phases_show_the_share_of_each() -> None:
    figure = parsed(figures.phases(MODELS[:1], ("prefill", "decode", "load"), simulated=False))
    assert [one.text for one in figure.iter("title")] == [
        f"<b>thrifty: {what}: {phase}" for what in ("joules", "time") for phase in ("prefill 25.0 %", "decode 75.0 %")
    ]
    texts = [one.text for one in figure.iter("text")]
    assert "decode" in texts
    assert "load" not in texts


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_gpu_is_named_across_every_picture(simulated: bool) -> None:
    bins = [{"n": 5, "risk": 0.5, "failed": 0.4, "low": 0.1, "high": 0.8}]
    for drawn in (
        figures.front(MODELS, simulated=simulated),
        figures.phases(MODELS, ("prefill", "decode"), simulated=simulated),
        figures.reliability([("m", bins)], simulated=simulated),
    ):
        assert (">SIMULATED<" in drawn) is simulated


@pytest.mark.parametrize("most", [0.0, 0.003, 1.0, 7.0, 99.0, 12345.0])
def test_ticks_are_round_few_and_reach_all(most: float) -> None:
    ticks = figures._ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most
    assert 2 <= len(ticks) <= 8
