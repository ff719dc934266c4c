"""The live dashboard's hardware panels: is it the card that holds the run back?"""

from __future__ import annotations

from scripts.dashboards.absence import NO_READING
from scripts.dashboards.fields import Json, Query, override, states, steps
from scripts.dashboards.live_queries import GPU_LEGEND, PHASE_OF_WORKER, PHASE_STATES
from scripts.dashboards.panels import state_timeline, timeseries
from scripts.dashboards.promql import rate, recorded, select

from joulebench import metrics as m

SHOWN_CLOCKS = 'clock!="graphics"'
DASHED: Json = {"custom__lineStyle": {"dash": [8, 6], "fill": "dash"}, "custom__fillOpacity": 0}


def gpu_panels() -> list[Json]:
    limits = [override("/limit|highest/", by="byRegexp", **DASHED)]
    active = states({0: ("no", "transparent"), 1: ("yes", "orange")})
    return [
        timeseries(
            "Power and limit",
            "Instant board power with the enforced limit, and the sum over all GPUs of a host. For display only.",
            [
                Query(select(m.GPU_POWER), GPU_LEGEND),
                Query(select(m.GPU_POWER_LIMIT), f"{GPU_LEGEND} limit"),
                Query(recorded("instance:joulebench_gpu_power_watts:sum"), "{{instance}} all GPUs"),
            ],
            "watt",
            overrides=limits,
            empty=NO_READING,
        ),
        timeseries(
            "Energy counter against power",
            "Power as the energy counter gives it beside the power sensor. Curves that stay apart mean that one is wrong.",
            [Query(rate(m.GPU_ENERGY), f"{GPU_LEGEND} counter"), Query(select(m.GPU_POWER), f"{GPU_LEGEND} sensor")],
            "watt",
            empty=NO_READING,
        ),
        timeseries(
            "Temperature",
            "Core temperature, and how many degrees are left before the card slows itself down.",
            [Query(select(m.GPU_TEMPERATURE), GPU_LEGEND), Query(select(m.GPU_TEMPERATURE_MARGIN), f"{GPU_LEGEND} margin")],
            "celsius",
            empty=NO_READING,
        ),
        timeseries(
            "Utilization and VRAM",
            "Share of time with a kernel running, and share of device memory in use.",
            [
                Query(select(m.GPU_UTILIZATION), f"{GPU_LEGEND} utilization"),
                Query(recorded("gpu:joulebench_gpu_memory_used:ratio"), f"{GPU_LEGEND} VRAM"),
            ],
            "percentunit",
            maximum=1,
            empty=NO_READING,
        ),
        state_timeline(
            "Phase of each worker",
            "Prefill, decode, tool or idle. Read it with the throttling timeline beside it: was the card held back?",
            [Query(PHASE_OF_WORKER, "{{run_id}} {{worker}}")],
            PHASE_STATES,
            empty="No data: no live run",
        ),
        state_timeline(
            "Throttling by reason",
            "Clock event reasons as the driver reports them at each scrape. Short events between two scrapes are only in the time"
            " counters. An idle GPU is not throttled.",
            [Query(f"max by (instance, gpu, reason) ({select(m.GPU_THROTTLE_ACTIVE)})", f"{GPU_LEGEND} {{{{reason}}}}")],
            active,
            empty=NO_READING,
        ),
        timeseries(
            "Throttled share of time",
            "Share of time in which the reason held clocks down, by the driver's time counters: no event is missed. The line"
            " is the threshold of the alert on heat.",
            [Query(f"max by (instance, gpu, reason) ({rate(m.GPU_THROTTLE_SECONDS)})", f"{GPU_LEGEND} {{{{reason}}}}")],
            "percentunit",
            thresholds=steps((None, "transparent"), (0.05, "red")),
            highest_first=True,
            empty=NO_READING,
        ),
        timeseries(
            "Clocks",
            "Current clocks of the multiprocessors and the memory, and the highest that the card can run.",
            [
                Query(select(m.GPU_CLOCK, SHOWN_CLOCKS), f"{GPU_LEGEND} {{{{clock}}}}"),
                Query(select(m.GPU_CLOCK_MAX, SHOWN_CLOCKS), f"{GPU_LEGEND} {{{{clock}}}} highest"),
            ],
            "hertz",
            overrides=limits,
            empty=NO_READING,
        ),
    ]
