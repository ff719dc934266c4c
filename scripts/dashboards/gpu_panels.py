"""Panels of the hardware that several boards show: the tiles of the current state and the graphs under them."""

from __future__ import annotations

from scripts.dashboards.panels import (
    ABSENCE,
    NO_READING,
    Json,
    Query,
    or_absence,
    override,
    stat,
    state_timeline,
    states,
    steps,
    timeseries,
)
from scripts.dashboards.promql import JOB, THERMAL, encoded, rate, recorded, select

from joulebench import metrics as m

GPU_LEGEND = "{{instance}} GPU {{gpu}}"
THROTTLED_SHARE = "gpu_reason:joulebench_gpu_throttle_seconds:rate1m"
VRAM_SHARE = "gpu:joulebench_gpu_memory_used:ratio"
HEAT_STEPS = steps((None, "green"), (0.0001, "orange"), (0.05, "red"))
DASHED: Json = {"custom__lineStyle": {"dash": [8, 6], "fill": "dash"}, "custom__fillOpacity": 0}
LIMITS = [override("/limit|highest/", by="byRegexp", **DASHED)]
SOURCES = ("none", *m.GPU_SOURCES)
SOURCE_STATES = states(
    {
        0: ("no GPU reported", "text"),
        1: ("NVML, measured", "green"),
        2: ("AMD SMI, measured", "green"),
        3: ("SIMULATED", "orange"),
        4: ("GPU reading fails", "red"),
        5: ("exporter unreachable", "red"),
    }
)
PHASES: dict[float, tuple[str, str]] = {
    0: ("idle", "transparent"),
    1: ("prefill", "purple"),
    2: ("decode", "blue"),
    3: ("tool", "orange"),
}
PHASE_OF_WORKER = encoded(m.RUN_PHASE, "phase", m.PHASES, "run_id, worker")


def source_tile() -> Json:
    source = encoded(m.EXPORTER_INFO, "gpu_source", SOURCES, "instance")
    failing = f"""({select(m.COLLECTOR_SUCCESS, 'collector="gpu"')} == 0) + 4"""
    down = f'(up{{{JOB}, job="joulebench", instance=~"$instance"}} == 0) + 5'
    return stat(
        "GPU source",
        "Whether GPU numbers are measured (NVML, AMD SMI) or simulated, or why there are none: the host has no GPU, reading it"
        " fails, or Prometheus cannot scrape the exporter. Simulated joules are no measurement.",
        [Query(f"max by (instance) ({source} or {failing} or {down})", "{{instance}}", "instant")],
        "none",
        mappings=SOURCE_STATES,
        empty="No data: no exporter is scraped",
    )


def hardware_tiles() -> list[Json]:
    return [
        stat(
            "GPU utilization",
            "Highest of the chosen GPUs: share of the driver's sample period with a kernel running.",
            [Query(or_absence(f"max({select(m.GPU_UTILIZATION)})"), "highest")],
            "percentunit",
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "VRAM used",
            "Fullest of the chosen GPUs.",
            [Query(or_absence(f"max({recorded(VRAM_SHARE)})"), "fullest")],
            "percentunit",
            thresholds=steps((None, "green"), (0.85, "orange"), (0.95, "red")),
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Power (% of limit)",
            "Instant power of all chosen GPUs divided by their enforced limits.",
            [Query(or_absence(f"sum({select(m.GPU_POWER)}) / (sum({select(m.GPU_POWER_LIMIT)}) > 0)"), "of limit")],
            "percentunit",
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Hottest GPU",
            "Core temperature of the hottest chosen GPU. What is too hot depends on the card: see the temperature margin.",
            [Query(or_absence(f"max({select(m.GPU_TEMPERATURE)})"), "hottest")],
            "celsius",
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Thermal throttling",
            "Share of the last minute in which heat lowered the clocks of a GPU, highest of the chosen GPUs, by the driver's"
            " time counters.",
            [Query(or_absence(f"max({recorded(THROTTLED_SHARE, THERMAL)})"), "highest")],
            "percentunit",
            thresholds=HEAT_STEPS,
            mappings=ABSENCE,
            decimals=1,
        ),
    ]


def power() -> Json:
    return timeseries(
        "Power and limit",
        "Instant board power with the enforced limit, and the sum over all GPUs of a host. For display; energy comes from the"
        " counter.",
        [
            Query(select(m.GPU_POWER), GPU_LEGEND),
            Query(select(m.GPU_POWER_LIMIT), f"{GPU_LEGEND} limit"),
            Query(recorded("instance:joulebench_gpu_power_watts:sum"), "{{instance}} all GPUs"),
        ],
        "watt",
        overrides=LIMITS,
        empty=NO_READING,
    )


def temperature() -> Json:
    slowdown = f"max by (instance, gpu) ({select(m.GPU_TEMPERATURE)} + {select(m.GPU_TEMPERATURE_MARGIN)})"
    return timeseries(
        "Temperature and limit",
        "Core temperature, and the temperature at which the card slows itself down, where the driver reports the margin.",
        [Query(select(m.GPU_TEMPERATURE), GPU_LEGEND), Query(slowdown, f"{GPU_LEGEND} limit")],
        "celsius",
        overrides=LIMITS,
        empty=NO_READING,
    )


def utilization() -> Json:
    return timeseries(
        "Utilization and VRAM",
        "Share of time with a kernel running, and share of device memory in use. High utilization does not mean that the card is"
        " used well.",
        [
            Query(select(m.GPU_UTILIZATION), f"{GPU_LEGEND} utilization"),
            Query(recorded(VRAM_SHARE), f"{GPU_LEGEND} VRAM"),
        ],
        "percentunit",
        maximum=1,
        empty=NO_READING,
    )


def phase_timeline() -> Json:
    return state_timeline(
        "Phase of each worker",
        "Prefill, decode, tool or idle. Compare it with the throttling beside it.",
        [Query(PHASE_OF_WORKER, "{{run_id}} {{worker}}")],
        states(PHASES),
        empty="No data: no live run",
    )


def throttling_timeline() -> Json:
    return state_timeline(
        "Throttling by reason",
        "Clock event reasons as the driver reports them at each scrape. Events between two scrapes are only in the time counters."
        " An idle GPU is not throttled: sw_power_cap counts only with the power at 90 % of its limit or more.",
        [Query(f"max by (instance, gpu, reason) ({select(m.GPU_THROTTLE_ACTIVE)})", f"{GPU_LEGEND} {{{{reason}}}}")],
        states({0: ("no", "transparent"), 1: ("yes", "orange")}),
        empty=NO_READING,
    )


def throttled_share() -> Json:
    return timeseries(
        "Throttled share of time",
        "Share of time in which the reason lowered the clocks, by the driver's time counters, which miss no event. The line is"
        " the threshold of the alert on heat.",
        [Query(f"max by (instance, gpu, reason) ({rate(m.GPU_THROTTLE_SECONDS)})", f"{GPU_LEGEND} {{{{reason}}}}")],
        "percentunit",
        thresholds=steps((None, "transparent"), (0.05, "red")),
        highest_first=True,
        empty=NO_READING,
    )
