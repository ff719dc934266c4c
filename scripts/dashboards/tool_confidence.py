"""How sure the models were of their tool calls, tool by tool."""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query, override
from scripts.dashboards.panels import table
from scripts.dashboards.promql import latest, quantile_so_far, ratio

from joulebench import metrics as m

KEYS = ("model", "tool")
GUESS = 'le="0.5"'


def confidence_by_tool() -> Json:
    def of(suffix: str, *matchers: str) -> str:
        return f"sum by ({', '.join(KEYS)}) ({latest(m.TOOL_CONFIDENCE, *matchers, suffix=suffix)})"

    bar: Json = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    shares = {
        "Mean": (ratio(of("_sum"), of("_count")), "green"),
        "One in ten is below": (quantile_so_far(0.1, m.TOOL_CONFIDENCE, *KEYS), "blue"),
        "Share below 50 %": (ratio(of("_bucket", GUESS), of("_count")), "orange"),
    }
    exprs = [of("_count"), *(expr for expr, _ in shares.values())]
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(("Calls", *shares))}
    return table(
        "Confidence by tool",
        "Tool calls whose tokens were found, of the runs in this time range: how many, their mean confidence, what one in ten"
        " stays below, and the share of guesses. Tools are those that the benchmark declared (Run.declare_tools), 24 at most;"
        " other is all else, invented tools too. Few calls say little.",
        [Query(expr, "__auto", "table") for expr in exprs],
        {"tool": "Tool", "model": "Model", **fields},
        overrides=[
            override("Tool", custom__minWidth=120),
            override("Calls", unit="none", custom__width=70),
            *(
                override(
                    name,
                    unit="percentunit",
                    decimals=0,
                    min=0,
                    max=1,
                    color={"mode": "fixed", "fixedColor": colour},
                    custom__cellOptions=bar,
                )
                for name, (_, colour) in shares.items()
            ),
        ],
        sort="Calls",
        empty="No data: no tool call whose tokens were found (it needs logprobs)",
    )
