"""The tiles on top of the live dashboard: one question each, with a colour only where there is a threshold."""

from __future__ import annotations

from scripts.dashboards.absence import ABSENCE, NO_RUN_STATE, or_absence, or_no_run
from scripts.dashboards.costs import CURRENCY, api_cost_per_task, local_cost_per_task
from scripts.dashboards.fields import Json, Query, states, steps
from scripts.dashboards.live_queries import FIRING, PHASE_OF_WORKER, PHASES
from scripts.dashboards.panels import stat
from scripts.dashboards.promql import JOB, PROXY_JOB, encoded, in_range, latest, quantile_so_far, ratio, recorded, select, total

from joulebench import metrics as m

THROTTLED = "gpu_reason:joulebench_gpu_throttle_seconds:rate1m"
THERMAL = f'reason=~"{"|".join(m.THERMAL_REASONS)}"'
HEAT_STEPS = steps((None, "green"), (0.0001, "orange"), (0.05, "red"))
OWN_JOBS = 'job=~"joulebench.*"'
PROXY_USED = f"unless (max_over_time(up{{{PROXY_JOB}}}[$__range]) == 0)"
NOT_OK = 'outcome!="ok"'
SOURCES = ("none", "nvml", "simulated")
SOURCE_STATES = states(
    {
        0: ("no GPU reported", "text"),
        1: ("NVML, measured", "green"),
        2: ("SIMULATED", "orange"),
        3: ("GPU reading fails", "red"),
        4: ("exporter unreachable", "red"),
    }
)
SUCCESSFUL = f"count({in_range(latest(m.TASK_SUCCESS))} == 1)"


def source_tile() -> Json:
    source = encoded(m.EXPORTER_INFO, "gpu_source", SOURCES, "instance")
    failing = f"""({select(m.COLLECTOR_SUCCESS, 'collector="gpu"')} == 0) + 3"""
    down = f'(up{{{JOB}, job="joulebench", instance=~"$instance"}} == 0) + 4'
    return stat(
        "GPU source",
        "Whether GPU numbers are measured (NVML) or invented (simulated), or why there are none: the host has no GPU, reading it"
        " fails, or Prometheus cannot scrape the exporter. Simulated joules are no measurement.",
        [Query(f"max by (instance) ({source} or {failing} or {down})", "{{instance}}", "instant")],
        "none",
        mappings=SOURCE_STATES,
        empty="No data: no exporter is scraped",
    )


def cost_tiles() -> list[Json]:
    return [
        stat(
            "Cost so far",
            "Electricity of the tasks in this time range at the price list's price, and the machine's time where that has"
            " a price. Prices stand on the cost dashboard.",
            [Query(f"sum({local_cost_per_task()})", "local", "instant")],
            CURRENCY,
        ),
        stat(
            "API cost so far",
            "What the chosen API model would take for the same tokens. Other models and the date of the prices stand on the cost"
            " dashboard.",
            [Query(f"sum({api_cost_per_task()})", "$api_model", "instant")],
            CURRENCY,
        ),
    ]


def tiles() -> list[tuple[Json, int, int]]:
    """Three lines of 24 columns; the middle one has room for curves."""
    wide = ("Tasks done", "Energy so far")
    first, second = [*progress_tiles(), *cost_tiles()], [energy_tile(), *hardware_tiles(), not_ok_tile()]
    lines = [(first, 3), (second, 4)]
    return [
        *((tile, 6 if tile["title"] in wide else 3, height) for line, height in lines for tile in line),
        (model_tile(), 12, 3),
        (source_tile(), 6, 3),
        *((tile, 3, 3) for tile in trouble_tiles()),
    ]


def progress_tiles() -> list[Json]:
    return [
        stat(
            "Tasks done",
            "Finished tasks by how they ended, and how many are planned where the benchmark knows.",
            [
                Query(f"sum by (status) ({latest(m.RUN_TASKS)})", "{{status}}", "instant"),
                Query(f"sum({latest(m.RUN_TASKS_PLANNED)})", "planned", "instant"),
            ],
            "none",
        ),
        stat(
            "Current phase",
            "What each worker does at this moment.",
            [Query(or_no_run(PHASE_OF_WORKER), "{{worker}}", "instant")],
            "none",
            mappings=states({**PHASES, 0: ("idle", "text"), **NO_RUN_STATE}),
        ),
        stat(
            "Output speed",
            "Tokens per second while generating: decoded tokens by the time the server spent on decoding, over the tasks in"
            " this time range.",
            [Query(ratio(total(m.TASK_DECODE_TOKENS), total(m.TASK_DECODE, suffix="_sum")), "output", "instant")],
            "suffix:tok/s",
            decimals=1,
        ),
        stat(
            "TTFT p95",
            "Time to first token that 95 % of the streamed calls stay below, over the runs until now.",
            [Query(quantile_so_far(0.95, m.CALL_TTFT), "p95", "instant")],
            "s",
        ),
        stat(
            "Joules per success",
            "Energy of all tasks in this time range, failed ones too, by the tasks that passed.",
            [Query(ratio(total(m.TASK_ENERGY), SUCCESSFUL), "per passed task", "instant")],
            "joule",
            decimals=1,
        ),
    ]


def energy_tile() -> Json:
    energy = f"sum(increase({select(m.GPU_ENERGY)}[$__range]))"
    return stat(
        "Energy so far",
        "All GPUs over this time range, idle time included, and the share of finished tasks.",
        [
            Query(or_absence(energy), "all GPUs", "instant"),
            Query(total(m.TASK_ENERGY), "in tasks", "instant"),
        ],
        "joule",
        mappings=ABSENCE,
        decimals=1,
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
            [Query(or_absence(f"max({recorded('gpu:joulebench_gpu_memory_used:ratio')})"), "fullest")],
            "percentunit",
            thresholds=steps((None, "green"), (0.85, "orange"), (0.95, "red")),
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Power of limit",
            "Instant power of all chosen GPUs by their enforced limits.",
            [Query(or_absence(f"sum({select(m.GPU_POWER)}) / (sum({select(m.GPU_POWER_LIMIT)}) > 0)"), "of limit")],
            "percentunit",
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Hottest GPU",
            "Core temperature of the hottest chosen GPU; what is too hot depends on the card, see the margin below.",
            [Query(or_absence(f"max({select(m.GPU_TEMPERATURE)})"), "hottest")],
            "celsius",
            mappings=ABSENCE,
            decimals=0,
        ),
        stat(
            "Throttled by heat",
            "Share of the last minute in which heat held the clocks of the worst GPU down, by the driver's time counters.",
            [Query(or_absence(f"max({recorded(THROTTLED, THERMAL)})"), "worst")],
            "percentunit",
            thresholds=HEAT_STEPS,
            mappings=ABSENCE,
            decimals=1,
        ),
    ]


def not_ok_tile() -> Json:
    return stat(
        "Tool calls not ok",
        "Share of the tool calls in this time range that did not end ok: malformed, undeclared, invalid arguments or an error.",
        [Query(ratio(f"({total(m.TASK_TOOL_CALLS, NOT_OK)} or vector(0))", total(m.TASK_TOOL_CALLS)), "not ok", "instant")],
        "percentunit",
        decimals=0,
    )


def model_tile() -> Json:
    return stat(
        "Models of the tasks",
        "Models of the tasks in this time range, with the number of their tasks.",
        [Query(f"count by (model) {in_range(latest(m.TASK_INFO))}", "{{model}}", "instant")],
        "none",
        text="name",
    )


def trouble_tiles() -> list[Json]:
    return [
        stat(
            "Unreachable",
            "Targets of Joulebench's scrape jobs that Prometheus cannot scrape. A proxy counts if it answered in this time range:"
            " many hosts have none.",
            [Query(f"count(up{{{OWN_JOBS}}} == 0 {PROXY_USED}) or vector(0)", "targets", "instant")],
            "none",
            thresholds=steps((None, "green"), (1, "red")),
        ),
        stat(
            "Alerts",
            "Joulebench alerts that fire now; the list stands at the end of this dashboard.",
            [Query(f"count({FIRING}) or vector(0)", "firing", "instant")],
            "none",
            thresholds=steps((None, "green"), (1, "orange")),
        ),
    ]
