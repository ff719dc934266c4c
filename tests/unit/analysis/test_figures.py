"""Charts of a report: they have the numbers that they are given, escape names, and always name a simulated GPU."""

from __future__ import annotations

from typing import Any

import pytest

from joulebench.analysis.report.figures import pareto_figure, phase_figure, reliability_figure


def model(label: str, joules: float, rate: float, *, pareto: bool = False, high: float | None = None) -> dict[str, Any]:
    shares = {"prefill": 0.25, "decode": 0.75}
    return {
        "label": label,
        "pareto": pareto,
        "measures": {
            "joules_per_success": {"value": joules, "low": 0.8 * joules, "high": high},
            "success_rate": {"value": rate, "low": rate - 0.1, "high": min(1.0, rate + 0.1)},
        },
        "joules_share": shares,
        "seconds_share": shares,
    }


MODELS = [
    model("<b>thrifty", 100.0, 0.9, pareto=True, high=130.0),
    model("costly", 5000.0, 0.9, high=1e9),
    model("open", 70.0, 0.2),
]
BINS = [{"n": 10, "risk": 0.2, "failed": 0.3, "low": 0.1, "high": 0.6}]


def drawn(figure: Any) -> dict[str, Any]:
    assert figure is not None
    values: dict[str, Any] = figure.to_plotly_json()
    return values


def test_the_pareto_chart_has_each_model_with_its_interval() -> None:
    figure = drawn(pareto_figure(MODELS, simulated=False))
    assert [(trace["x"][0], trace["y"][0], trace["marker"]["symbol"]) for trace in figure["data"]] == [
        (100.0, 0.9, "star"),
        (5000.0, 0.9, "circle"),
        (70.0, 0.2, "circle"),
    ]
    assert figure["data"][0]["hovertext"] == ["&lt;b&gt;thrifty: 100 J per success, 90.0 % success"]
    assert figure["data"][0]["error_x"]["array"] == [30.0]
    assert figure["data"][0]["error_x"]["arrayminus"] == [20.0]
    assert pareto_figure([], simulated=False) is None


def test_a_wide_or_open_interval_does_not_hide_the_others() -> None:
    figure = drawn(pareto_figure(MODELS, simulated=False))
    assert figure["layout"]["xaxis"]["range"] == [0, pytest.approx(1.1 * 15_000)]


def test_phases_show_the_share_of_each() -> None:
    figure = drawn(phase_figure(MODELS[:1], ("prefill", "decode", "load"), simulated=False))
    assert [(trace["name"], trace["x"]) for trace in figure["data"]] == [("prefill", [0.25, 0.25]), ("decode", [0.75, 0.75])]
    assert figure["data"][0]["hovertext"][0] == "&lt;b&gt;thrifty: joules: prefill 25.0 %"
    assert phase_figure([], ("prefill",), simulated=False) is None


def test_reliability_shows_each_bin_and_escapes() -> None:
    figure = drawn(reliability_figure([("<m>", BINS)]))
    assert figure["data"][1]["name"] == "&lt;m&gt;"
    assert figure["data"][1]["hovertext"] == ["risk 20%, failed 30% of 10"]
    assert figure["data"][1]["error_y"]["array"] == [pytest.approx(0.3)]
    assert reliability_figure([]) is None


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_gpu_is_named_across_every_chart(simulated: bool) -> None:
    for figure in (
        pareto_figure(MODELS, simulated=simulated),
        phase_figure(MODELS, ("prefill", "decode"), simulated=simulated),
        reliability_figure([("m", BINS)], simulated=simulated),
    ):
        texts = [each["text"] for each in drawn(figure)["layout"].get("annotations", ())]
        assert texts == (["SIMULATED"] if simulated else [])
