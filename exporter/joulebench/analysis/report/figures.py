"""Charts that nobody turns: drawn here as SVG, so that they stand in the page before any script runs, and on paper.

Text from data is escaped where it enters. A simulated GPU is named across every chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from joulebench.analysis.show_comparison import number

Values = Mapping[str, Any]

COLOURS = ("#0969da", "#cf5c00", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0b7285")
PHASE_COLOURS = {
    "prefill": "#54aeff",
    "decode": "#0969da",
    "llm_unsplit": "#8c959f",
    "load": "#bf3989",
    "tool_wait": "#e3b341",
    "other": "#d0d7de",
}
WIDTH = 1180
LEFT, RIGHT, TOP, BOTTOM = 70, 36, 34, 46
LINE = 17
"""Pixels from one line of text to the next."""
MOST_NAMED = 40


def front(models: Sequence[Values], *, simulated: bool) -> str:
    """Success rate against joules per success with their intervals; those on the Pareto front are stars, joined."""
    known = [
        (place, model)
        for place, model in enumerate(models)
        if all(model["measures"].get(key, {}).get("value") is not None for key in ("joules_per_success", "success_rate"))
    ]
    if not known:
        return ""
    height = 400
    ticks = _ticks(max(_reach(model["measures"]["joules_per_success"]) for _, model in known))
    across, down = _Scale(0.0, ticks[-1], LEFT, WIDTH - RIGHT), _Scale(0.0, 1.0, height - BOTTOM, TOP + 14)
    parts = [*_frame(across, down, ticks, [0.0, 0.25, 0.5, 0.75, 1.0])]
    parts += _axis_names(height, "joules per successful task, failures counted", "success rate")
    best = sorted(
        (model for _, model in known if model["pareto"]), key=lambda model: model["measures"]["joules_per_success"]["value"]
    )
    corners = [(across(_value(model, "joules_per_success")), down(_value(model, "success_rate"))) for model in best]
    if len(corners) > 1:
        steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in corners[1:])
        parts.append(
            f'<path d="M{corners[0][0]:.1f} {corners[0][1]:.1f}{steps}" fill="none" stroke="#57606a" stroke-dasharray="2 4"/>'
        )
    taken: list[tuple[float, float, float]] = []
    for place, model in known:
        parts += _point(model, COLOURS[place % len(COLOURS)], across, down, taken, named=len(known) <= MOST_NAMED)
    title = (
        "Success against joules per successful task: up and left is better; bars are 95 % intervals; stars are the Pareto front"
    )
    return _chart("front", title, parts, height, simulated=simulated)


def phases(models: Sequence[Values], named: Sequence[str], *, simulated: bool) -> str:
    """Shares of joules and of time by phase, two bars a model."""
    bars = [
        (f"{model['label']}: {what}", model[key])
        for model in models
        for what, key in (("joules", "joules_share"), ("time", "seconds_share"))
        if model[key]
    ]
    if not bars:
        return ""
    left = min(420.0, 20 + 6.6 * max(len(label) for label, _ in bars))
    height = TOP + 24 * len(bars) + 58
    across = _Scale(0.0, 1.0, left, WIDTH - RIGHT)
    parts = []
    for place, (label, shares) in enumerate(bars):
        y = TOP + 24 * place + 4
        parts.append(_text(left - 8, y + 13, _cut(label, 62), "end"))
        at = 0.0
        for phase in named:
            share = shares.get(phase)
            if not share or share < 0:
                continue
            x, width = across(at), across(at + share) - across(at)
            told = f"{phase.replace('_', ' ')} {number(share, percent=True)}"
            rect = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{PHASE_COLOURS[phase]}">'
            parts.append(f"{rect}<title>{escape(f'{label}: {told}')}</title></rect>")
            if width > 46:
                ink = "#fff" if phase in ("decode", "load") else "#1b1f24"
                parts.append(_text(x + width / 2, y + 13, number(share, percent=True), "middle", ink))
            at += share
    bottom = TOP + 24 * len(bars) + 8
    parts += [_text(across(share), bottom + 12, f"{share:.0%}", "middle", "#57606a") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    x = left
    for phase in named:
        if any(shares.get(phase) for _, shares in bars):
            name = phase.replace("_", " ").replace("llm", "LLM")
            parts.append(f'<rect x="{x:.1f}" y="{bottom + 24}" width="12" height="12" fill="{PHASE_COLOURS[phase]}"/>')
            parts.append(_text(x + 17, bottom + 34, name))
            x += 40 + 7 * len(name)
    return _chart("phases", "Where joules and time went", parts, height, simulated=simulated)


def reliability(curves: Sequence[tuple[str, Sequence[Values]]], *, simulated: bool = False) -> str:
    """Share of failures against predicted risk, by bins of equal mass with Wilson's 95 % bars; on the diagonal both are equal."""
    if not curves:
        return ""
    side = 300
    height, width = TOP + side + BOTTOM, 760
    across, down = _Scale(0.0, 1.0, LEFT, LEFT + side), _Scale(0.0, 1.0, TOP + side, TOP)
    quarters = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [*_frame(across, down, quarters, quarters, percent=True)]
    parts += _axis_names(height, "predicted risk of failure", "share that failed", middle=LEFT + side / 2)
    parts.append(
        f'<path d="M{across(0):.0f} {down(0):.0f}L{across(1):.0f} {down(1):.0f}" stroke="#8c959f" stroke-dasharray="4 4"/>'
    )
    for place, (label, bins) in enumerate(curves):
        colour = COLOURS[place % len(COLOURS)]
        corners = [(across(one["risk"]), down(one["failed"])) for one in bins]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}"/>')
        for one, (x, y) in zip(bins, corners, strict=True):
            bar = f"M{x:.1f} {down(one['low']):.1f}V{down(one['high']):.1f}"
            told = f"{label}: risk {one['risk']:.0%}, failed {one['failed']:.0%} of {one['n']}"
            parts.append(f'<path d="{bar}" stroke="{colour}" stroke-opacity="0.5"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(told)}</title></circle>')
        parts.append(f'<circle cx="{LEFT + side + 30}" cy="{TOP + 10 + 20 * place}" r="4" fill="{colour}"/>')
        parts.append(_text(LEFT + side + 40, TOP + 14 + 20 * place, _cut(label, 52)))
    return _chart(
        "reliability",
        "Predicted risk against what failed; on the dashes both are equal",
        parts,
        height,
        simulated=simulated,
        width=width,
    )


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._step, self._start = low, (end - start) / ((high - low) or 1.0), start
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._step


def _point(
    model: Values, colour: str, across: _Scale, down: _Scale, taken: list[tuple[float, float, float]], *, named: bool
) -> Iterator[str]:
    joules, rate = model["measures"]["joules_per_success"], model["measures"]["success_rate"]
    x, y = across(joules["value"]), down(rate["value"])
    ends = [across(joules["value"] if joules[end] is None else joules[end]) for end in ("low", "high")]
    ends[1] = min(ends[1], across.end)
    sides = [down(rate["value"] if rate[end] is None else rate[end]) for end in ("low", "high")]
    bars = f"M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}M{x:.1f} {sides[0]:.1f}V{sides[1]:.1f}"
    yield f'<path d="{bars}" stroke="{colour}" stroke-opacity="0.7"/>'
    open_end = joules["low"] is not None and joules["high"] is None
    if open_end:
        yield f'<path d="M{x:.1f} {y:.1f}H{across.end:.1f}" stroke="{colour}" stroke-dasharray="5 4"/>'
    told = f"{model['label']}: {number(joules['value'])} J per success, {number(rate['value'], percent=True)} success"
    mark = _star(x, y, 9) if model["pareto"] else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"'
    yield f'{mark} fill="{colour}"><title>{escape(told)}</title></{"path" if model["pareto"] else "circle"}>'
    if named:
        label = _cut(str(model["label"]), 44)
        wide = 6.8 * len(label)
        right = x + 12 + wide < WIDTH - RIGHT
        start = x + 12 if right else x - 12 - wide
        at = y - 8
        while any(abs(at - other) < LINE and start < end and begin < start + wide for begin, end, other in taken):
            at += LINE
        taken.append((start, start + wide, at))
        yield _text(start if right else x - 12, at, label, "start" if right else "end", colour)


def _star(x: float, y: float, radius: float) -> str:
    corners = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else radius * 0.45
        angle = -math.pi / 2 + corner * math.pi / 5
        corners.append(f"{x + reach * math.cos(angle):.1f} {y + reach * math.sin(angle):.1f}")
    return f'<path d="M{"L".join(corners)}Z"'


def _frame(
    across: _Scale, down: _Scale, columns: Sequence[float], rows: Sequence[float], *, percent: bool = False
) -> Iterator[str]:
    for value in columns:
        x = across(value)
        yield f'<path d="M{x:.1f} {down.start:.1f}V{down.end:.1f}" stroke="#eaeef2"/>'
        yield _text(x, down.start + 16, f"{value:.0%}" if percent else number(value), "middle", "#57606a")
    for value in rows:
        y = down(value)
        yield f'<path d="M{across.start:.1f} {y:.1f}H{across.end:.1f}" stroke="#eaeef2"/>'
        yield _text(across.start - 8, y + 4, f"{value:.0%}", "end", "#57606a")


def _axis_names(height: float, below: str, beside: str, middle: float = (LEFT + WIDTH - RIGHT) / 2) -> Iterator[str]:
    yield _text(middle, height - 8, below, "middle")
    y = (TOP + height - BOTTOM) / 2
    yield f'<text transform="translate(18 {y:.0f}) rotate(-90)" text-anchor="middle">{escape(beside)}</text>'


def _chart(key: str, title: str, parts: Sequence[str], height: float, *, simulated: bool, width: float = WIDTH) -> str:
    mark = ""
    if simulated:
        place = f'transform="translate({width / 2:.0f} {height / 2:.0f}) rotate(-12)"'
        size = min(84.0, 0.5 * height)
        mark = (
            f'<text class="mark" {place} text-anchor="middle" dominant-baseline="middle" font-size="{size:.0f}">SIMULATED</text>'
        )
    head = f'<text x="{LEFT if key != "phases" else 20}" y="20" class="title">{escape(title)}</text>'
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"'
    style = f' style="max-width:{width:g}px"' if width != WIDTH else ""
    return f'<figure id="{key}"{style}><svg {box}>{head}{"".join(parts)}{mark}</svg></figure>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "") -> str:
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{fill}>{escape(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _value(model: Values, key: str) -> float:
    return float(model["measures"][key]["value"])


def _reach(one: Values) -> float:
    """As far as its interval goes, but no further than thrice the value: one wide interval must not hide the others."""
    value, high = float(one["value"]), one["high"]
    return min(3 * value, value if high is None else float(high))


def _ticks(most: float) -> list[float]:
    """From 0 in round steps, the last at or above ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    size = 10 ** math.floor(math.log10(most / 5))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor * 6 >= most)
    return [step * count for count in range(math.ceil(most / step) + 1)]
