"""Charts of the report as Plotly figures: the Pareto front, time and energy by phase, and reliability.

Text from data is escaped where it enters, because Plotly reads some markup. A simulated GPU is named across every chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from joulebench.analysis.prediction.confidence import REGRESSION, ConfidenceReport
from joulebench.analysis.prediction.records import SCORE
from joulebench.analysis.text import format_number
from joulebench.errors import UserError

try:
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs
    from plotly.subplots import make_subplots
except ImportError as error:  # pragma: no cover
    raise UserError("the page needs plotly; install it with: pip install 'joulebench[report]'; --format md does not") from error

Values = Mapping[str, Any]

COLORS = ("#0969da", "#cf5c00", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0b7285")
PHASE_COLORS = {
    "prefill": "#54aeff",
    "decode": "#0969da",
    "llm_unsplit": "#8c959f",
    "load": "#bf3989",
    "tool_wait": "#e3b341",
    "other": "#d0d7de",
}
LONGEST_LABEL = 44


def chart_library() -> str:
    """Plotly's JavaScript, which the page contains."""
    return str(get_plotlyjs())


def pareto_figure(models: Sequence[Values], *, simulated: bool) -> go.Figure | None:
    """Success rate against joules per success with their intervals; models on the Pareto front are stars. None without any."""
    known = [
        (place, model)
        for place, model in enumerate(models)
        if all(model["measures"].get(key, {}).get("value") is not None for key in ("joules_per_success", "success_rate"))
    ]
    if not known:
        return None
    figure = go.Figure()
    for place, model in known:
        joules, rate = model["measures"]["joules_per_success"], model["measures"]["success_rate"]
        label = escape(_shorten(str(model["label"])))
        hover = f"{label}: {format_number(joules['value'])} J per success, {format_number(rate['value'], percent=True)} success"
        figure.add_scatter(
            x=[joules["value"]],
            y=[rate["value"]],
            error_x=_error_bar(joules),
            error_y=_error_bar(rate),
            mode="markers+text",
            name=label,
            text=[label],
            textposition="top right",
            hovertext=[hover],
            hoverinfo="text",
            marker={
                "symbol": "star" if model["pareto"] else "circle",
                "size": 16 if model["pareto"] else 11,
                "color": COLORS[place % len(COLORS)],
            },
        )
    most = max(_axis_reach(model["measures"]["joules_per_success"]) for _, model in known)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="joules per successful task, failures included", range=[0, 1.1 * most])
    figure.update_yaxes(title_text="success rate", range=[-0.02, 1.12], tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1])
    return _styled(
        figure, "Success against joules per success (up and left is better); bars: 95 % intervals; stars: Pareto front", simulated
    )


def phase_figure(models: Sequence[Values], phases: Sequence[str], *, simulated: bool) -> go.Figure | None:
    """Shares of joules and of time by phase, two bars a model. None where no phases are known."""
    bars = [
        (f"{escape(_shorten(str(model['label'])))}: {what}", model[key])
        for model in models
        for what, key in (("joules", "joules_share"), ("time", "seconds_share"))
        if model[key]
    ]
    if not bars:
        return None
    figure = go.Figure()
    labels = [label for label, _ in bars]
    for phase in phases:
        shares = [max(0.0, of_bar.get(phase) or 0.0) for _, of_bar in bars]
        if not any(shares):
            continue
        name = phase.replace("_", " ").replace("llm", "LLM")
        texts = [format_number(share, percent=True) for share in shares]
        figure.add_bar(
            y=labels,
            x=shares,
            orientation="h",
            name=name,
            marker_color=PHASE_COLORS[phase],
            text=[text if share >= 0.05 else "" for share, text in zip(shares, texts, strict=True)],
            textposition="inside",
            insidetextanchor="middle",
            hovertext=[f"{label}: {name} {text}" for label, text in zip(labels, texts, strict=True)],
            hoverinfo="text",
        )
    figure.update_layout(
        barmode="stack", height=150 + 28 * len(bars), legend={"orientation": "h", "y": -0.25, "traceorder": "normal"}
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _styled(figure, "Time and energy by phase", simulated)


def scope_figure(rows: Sequence[Values], *, simulated: bool) -> go.Figure | None:
    """Joules per success of each scope, a bar for each model. None without any."""
    known = [row for row in rows if row["joules_per_success"] is not None and row["joules_per_success"]["value"] is not None]
    if not known:
        return None
    figure = go.Figure()
    for place, arm in enumerate(dict.fromkeys(row["arm"] for row in known)):
        own = [row for row in known if row["arm"] == arm]
        values = [row["joules_per_success"]["value"] for row in own]
        figure.add_bar(
            y=[row["scope"] + (" (SIMULATED)" if row["simulated"] else "") for row in own],
            x=values,
            orientation="h",
            name=escape(_shorten(str(arm))),
            marker_color=COLORS[place % len(COLORS)],
            text=[f"{format_number(value)} J" for value in values],
            textposition="auto",
            hoverinfo="name+text",
        )
    bars = len({row["scope"] for row in known})
    figure.update_layout(barmode="group", height=150 + 44 * max(bars, 2), legend={"orientation": "h", "y": -0.3})
    figure.update_xaxes(title="joules per successful task", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _styled(figure, "Energy per success by scope", simulated)


def reliability_figure(curves: Sequence[tuple[str, Sequence[Values]]], *, simulated: bool = False) -> go.Figure | None:
    """Share of failures against predicted risk, with Wilson's 95 % bars; on the diagonal both are equal. None without any."""
    if not curves:
        return None
    figure = go.Figure()
    _add_diagonal(figure)
    for place, (label, bins) in enumerate(curves):
        figure.add_scatter(
            x=[each["risk"] for each in bins],
            y=[each["failed"] for each in bins],
            error_y={
                "type": "data",
                "array": [each["high"] - each["failed"] for each in bins],
                "arrayminus": [each["failed"] - each["low"] for each in bins],
            },
            mode="lines+markers",
            name=escape(_shorten(label)),
            marker_color=COLORS[place % len(COLORS)],
            hovertext=[f"risk {each['risk']:.0%}, failed {each['failed']:.0%} of {each['n']}" for each in bins],
            hoverinfo="text",
        )
    figure.update_layout(width=720)
    figure.update_xaxes(title_text="predicted risk of failure", tickformat=".0%", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="share that failed", tickformat=".0%", range=[-0.02, 1.02])
    return _styled(figure, "Reliability of predicted failure risks", simulated)


def confidence_page(reports: Sequence[ConfidenceReport]) -> str:
    """A page with a reliability diagram for each level of each model that was not refused: success against confidence."""
    diagrams = [(report, level) for report in reports for level in report.levels if not level.refused]
    titles = [f"{escape(_shorten(report.model))}: {level.level}, n {level.n}" for report, level in diagrams]
    figure = make_subplots(rows=max(1, len(diagrams)), cols=1, subplot_titles=titles or ["no level was evaluated"])
    for row, (_, level) in enumerate(diagrams, 1):
        _add_diagonal(figure, row=row, col=1)
        drawn = [measure for measure in level.measures if measure.measure in (SCORE, REGRESSION) and measure.bins]
        for place, measure in enumerate(drawn):
            figure.add_scatter(
                x=[each.predicted for each in measure.bins],
                y=[each.observed for each in measure.bins],
                mode="lines+markers",
                name=f"{measure.measure}, ECE {format_number(measure.ece)} (noise {format_number(measure.ece_noise)})",
                marker_color=COLORS[place],
                row=row,
                col=1,
            )
    figure.update_layout(height=420 * max(1, len(diagrams)), width=760)
    figure.update_xaxes(range=[-0.02, 1.02], title_text="confidence")
    figure.update_yaxes(range=[-0.02, 1.02], title_text="share of successes")
    page: str = figure.to_html(full_html=True, include_plotlyjs=True)
    return page


def _add_diagonal(figure: go.Figure, **place: int) -> None:
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dash", "color": "#8c959f"}, showlegend=False, hoverinfo="skip", **place
    )


def _styled(figure: go.Figure, title: str, simulated: bool) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 14}, "x": 0.01},
        margin={"l": 70, "r": 20, "t": 40, "b": 50},
    )
    if simulated:
        figure.add_annotation(
            text="SIMULATED",
            xref="paper",
            yref="paper",
            x=0.5,
            y=0.5,
            showarrow=False,
            textangle=-18,
            opacity=0.18,
            font={"size": 84, "color": "#b35900"},
        )
    return figure


def _error_bar(estimate: Values) -> dict[str, Any] | None:
    """An upper bound that is missing is drawn as far as five times the value, beyond the axis."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if low is None and high is None:
        return None
    up = 5 * value if high is None else high - value
    return {"type": "data", "symmetric": False, "array": [up], "arrayminus": [0 if low is None else value - low], "thickness": 1}


def _axis_reach(estimate: Values) -> float:
    """As far as the interval goes, but at most three times the value: one wide interval must not hide the others."""
    value, high = float(estimate["value"]), estimate["high"]
    return min(3 * value, value if high is None else float(high))


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
