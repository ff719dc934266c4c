"""The tiles on top of the live dashboard: one question each, with a colour only where there is a threshold."""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query, states, steps
from scripts.dashboards.live_queries import FIRING, PHASE_OF_WORKER, PHASE_STATES
from scripts.dashboards.panels import stat
from scripts.dashboards.promql import encoded, latest, of_model, quantile_so_far, ratio, recorded, select, total

from joulebench import catalogue as c

THROTTLED = "gpu_reason:joulebench_gpu_throttle_seconds:rate1m"
THERMAL = f'reason=~"{"|".join(c.THERMAL_REASONS)}"'
HEAT_STEPS = steps((None, "green"), (0.0001, "orange"), (0.05, "red"))
SOURCES = ("none", "nvml", "simulated")
SOURCE_STATES = states({0: ("no GPU", "text"), 1: ("NVML, measured", "green"), 2: ("SIMULATED", "orange")})
SUCCESSFUL = f"count({of_model(latest(c.TASK_SUCCESS))} == 1)"


def tiles() -> list[tuple[Json, int]]:
    energy = f"sum(increase({select(c.GPU_ENERGY)}[$__range]))"
    return [
        (
            stat(
                "Tasks done",
                "Finished tasks by how they ended, and how many are planned where the benchmark knows.",
                [
                    Query(f"sum by (status) ({latest(c.RUN_TASKS)})", "{{status}}", "instant"),
                    Query(f"sum({latest(c.RUN_TASKS_PLANNED)})", "planned", "instant"),
                ],
                "none",
            ),
            6,
        ),
        (
            stat(
                "Current phase",
                "What each worker does at this moment. Nothing is shown once a run is over.",
                [Query(PHASE_OF_WORKER, "{{worker}}", "instant")],
                "none",
                mappings=PHASE_STATES,
            ),
            3,
        ),
        (
            stat(
                "Output speed",
                "Tokens per second while generating: decoded tokens by the time the server spent on decoding, over the tasks in"
                " this time range.",
                [Query(ratio(total(c.TASK_DECODE_TOKENS), total(c.TASK_DECODE, suffix="_sum")), "output", "instant")],
                "suffix:tok/s",
                decimals=1,
            ),
            3,
        ),
        (
            stat(
                "TTFT p95",
                "Time to first token that 95 % of the streamed calls stay below, over the runs until now.",
                [Query(quantile_so_far(0.95, c.CALL_TTFT), "p95", "instant")],
                "s",
            ),
            3,
        ),
        (
            stat(
                "Energy so far",
                "All GPUs over this time range, idle time included, and the share of finished tasks.",
                [
                    Query(energy, "all GPUs", "instant"),
                    Query(total(c.TASK_ENERGY), "in tasks", "instant"),
                ],
                "joule",
                decimals=1,
            ),
            6,
        ),
        (
            stat(
                "Joules per success",
                "Energy of all tasks in this time range, failed ones too, by the tasks that passed.",
                [Query(ratio(total(c.TASK_ENERGY), SUCCESSFUL), "per passed task", "instant")],
                "joule",
                decimals=1,
            ),
            3,
        ),
        (
            stat(
                "GPU utilization",
                "Highest of the chosen GPUs: share of the driver's sample period with a kernel running.",
                [Query(f"max({select(c.GPU_UTILIZATION)})", "highest")],
                "percentunit",
                decimals=0,
            ),
            3,
        ),
        (
            stat(
                "VRAM used",
                "Fullest of the chosen GPUs.",
                [Query(f"max({recorded('gpu:joulebench_gpu_memory_used:ratio')})", "fullest")],
                "percentunit",
                thresholds=steps((None, "green"), (0.85, "orange"), (0.95, "red")),
                decimals=0,
            ),
            3,
        ),
        (
            stat(
                "Power of limit",
                "Instant power of all chosen GPUs by their enforced limits.",
                [Query(f"sum({select(c.GPU_POWER)}) / (sum({select(c.GPU_POWER_LIMIT)}) > 0)", "of limit")],
                "percentunit",
                decimals=0,
            ),
            3,
        ),
        (
            stat(
                "Hottest GPU",
                "Core temperature of the hottest chosen GPU; what is too hot depends on the card, see the margin below.",
                [Query(f"max({select(c.GPU_TEMPERATURE)})", "hottest")],
                "celsius",
                decimals=0,
            ),
            3,
        ),
        (
            stat(
                "Throttled by heat",
                "Share of the last minute in which heat held the clocks of the worst GPU down, by the driver's time counters.",
                [Query(f"max({recorded(THROTTLED, THERMAL)})", "worst")],
                "percentunit",
                thresholds=HEAT_STEPS,
                decimals=1,
            ),
            3,
        ),
        (
            stat(
                "GPU source",
                "Whether GPU numbers are measured (NVML) or invented (simulated). Simulated joules are no measurement.",
                [Query(encoded(c.EXPORTER_INFO, "gpu_source", SOURCES, "instance"), "{{instance}}", "instant")],
                "none",
                mappings=SOURCE_STATES,
            ),
            3,
        ),
        (
            stat(
                "Unreachable",
                "Targets of Joulebench's scrape jobs that Prometheus cannot scrape.",
                [Query('count(up{job=~"joulebench.*"} == 0) or vector(0)', "targets", "instant")],
                "none",
                thresholds=steps((None, "green"), (1, "red")),
            ),
            3,
        ),
        (
            stat(
                "Alerts",
                "Joulebench alerts that fire now; the list stands at the end of this dashboard.",
                [Query(f"count({FIRING}) or vector(0)", "firing", "instant")],
                "none",
                thresholds=steps((None, "green"), (1, "orange")),
            ),
            3,
        ),
    ]
