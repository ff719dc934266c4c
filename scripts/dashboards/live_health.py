"""The live dashboard's last row: can the numbers above be trusted? Scrapes, collectors, polls, clocks, pushes."""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query, override, states, steps
from scripts.dashboards.live_queries import FIRING, GPU_LEGEND
from scripts.dashboards.panels import state_timeline, table, timeseries
from scripts.dashboards.promql import JOB, TASK_LABELS, rate, select

from joulebench import metrics as m


def health_panels() -> list[Json]:
    up = states({0: ("down", "red"), 1: ("up", "green")})
    works = states({0: ("fails", "red"), 1: ("works", "green")})
    sent = f'push_time_seconds{{{JOB}, run_id=~"$run_id"}} - on (job, {TASK_LABELS}) {select(m.TASK_SENT)}'
    return [
        table(
            "Firing alerts",
            "Joulebench alerts that fire now. What to do about each stands in prometheus/RUNBOOK.md under its name.",
            [Query(FIRING, "__auto", "table")],
            {
                "alertname": "Alert",
                "severity": "Severity",
                "instance": "Instance",
                "gpu": "GPU",
                "run_id": "Run",
                "worker": "Worker",
                "task_id": "Task",
                "model": "Model",
                "reason": "Reason",
                "collector": "Collector",
                "item": "Price of",
            },
            drop=("__name__", "alertstate", "job", "uuid", "Value"),
            overrides=[override("Alert", custom__minWidth=270)],
            empty="No alert fires",
        ),
        state_timeline(
            "Scrapes",
            "Whether Prometheus could scrape each target.",
            [Query('up{job=~"joulebench.*"}', "{{job}} {{instance}}")],
            up,
        ),
        state_timeline(
            "Collectors and Ollama",
            "Whether each collector of the exporter works, and whether the Ollama API answers it.",
            [
                Query(select(m.COLLECTOR_SUCCESS), "{{instance}} {{collector}}"),
                Query(select(m.OLLAMA_UP), "{{instance}} Ollama answers"),
            ],
            works,
        ),
        timeseries(
            "Duration of collections",
            "Time of each collector's last collection.",
            [Query(select(m.COLLECTOR_DURATION), "{{instance}} {{collector}}")],
            "s",
        ),
        timeseries(
            "Energy polls",
            "Polls of the energy thread per second, those that came late, and NVML calls that failed.",
            [
                Query(rate(m.METER_POLLS), GPU_LEGEND),
                Query(rate(m.METER_OVERRUNS), f"{GPU_LEGEND} late"),
                Query(rate(m.GPU_READ_ERRORS), f"{GPU_LEGEND} failed {{{{group}}}}"),
            ],
            "ops",
        ),
        timeseries(
            "Steps of the energy counter",
            "Learned time between two changes of the counter, and how exactly the time of the last change is known.",
            [
                Query(select(m.GPU_ENERGY_STEP), f"{GPU_LEGEND} step"),
                Query(select(m.GPU_ENERGY_SAMPLE_UNCERTAINTY), f"{GPU_LEGEND} uncertainty"),
            ],
            "s",
        ),
        timeseries(
            "Counter check at start-up",
            "Energy by the counter divided by integrated power; outside the lines one of the two is wrong.",
            [Query(select(m.GPU_ENERGY_CROSSCHECK), GPU_LEGEND)],
            "none",
            minimum=None,
            thresholds=steps((None, "red"), (0.9, "green"), (1.1, "red")),
        ),
        timeseries(
            "Clock offsets",
            "Exporter's clock against Prometheus', the Pushgateway's against the benchmarks' (with the time of the push in it),"
            " and the age of the energy counter.",
            [
                Query(f"{select(m.EXPORTER_CLOCK)} - timestamp({select(m.EXPORTER_CLOCK)})", "{{instance}} exporter"),
                Query(f"max by (run_id, worker) ({sent})", "{{run_id}} {{worker}} gateway"),
                Query(
                    f"{select(m.EXPORTER_CLOCK)} - on (job, instance) group_right () {select(m.GPU_ENERGY_SAMPLE_TIMESTAMP)}",
                    f"{GPU_LEGEND} counter age",
                ),
            ],
            "s",
            minimum=None,
        ),
        timeseries(
            "Events that spoil measurements",
            "Since the exporter or the worker started: jumps of the wall clock, falls of the energy counter, pushes that the"
            " gateway did not take.",
            [
                Query(
                    f"max by (instance) (max_over_time({select(m.EXPORTER_CLOCK_STEPS)}[$__rate_interval]))",
                    "{{instance}} clock jumps",
                ),
                Query(
                    f"max by (instance, gpu) (max_over_time({select(m.GPU_ENERGY_RESETS)}[$__rate_interval]))",
                    f"{GPU_LEGEND} counter fell",
                ),
                Query(
                    f"max by (run_id, worker) (max_over_time({select(m.PUSH_FAILURES)}[$__rate_interval]))",
                    "{{run_id}} {{worker}} push failed",
                ),
            ],
            "none",
        ),
        table(
            "Versions",
            "Versions of exporter, library and Ollama, with the models on disk and in memory.",
            [
                Query(f"max by (instance, version, gpu_source) ({select(m.EXPORTER_INFO)})", "__auto", "table"),
                Query(f'label_replace({select(m.OLLAMA_INFO)}, "ollama_version", "$1", "version", "(.*)")', "__auto", "table"),
                Query(select(m.OLLAMA_MODELS_AVAILABLE), "__auto", "table"),
                Query(select(m.OLLAMA_MODELS_LOADED), "__auto", "table"),
            ],
            {
                "instance": "Exporter",
                "version": "Version",
                "gpu_source": "GPU source",
                "ollama_version": "Ollama",
                "Value #C": "Models on disk",
                "Value #D": "Models loaded",
            },
            drop=("job", "__name__", "Value #A", "Value #B"),
        ),
    ]
