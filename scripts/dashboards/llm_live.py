"""The live dashboard: is the run going well right now, and which task was slow, dear, unsure or throttled?

Tiles first, then the hardware, the model, the tasks and the loaded models; rows that are closed at first show model servers, the
proxy and the health of the collection.
"""

from __future__ import annotations

from scripts.dashboards import proxy_panels
from scripts.dashboards.gpu_panels import (
    GPU_LEGEND,
    PHASE_OF_WORKER,
    PHASES,
    hardware_tiles,
    phase_timeline,
    power,
    source_tile,
    temperature,
    throttling_timeline,
    utilization,
)
from scripts.dashboards.layout import Layout, dashboard, marks, variables
from scripts.dashboards.panels import (
    NO_CALLS,
    NO_RUN_STATE,
    Json,
    Query,
    bargauge,
    heatmap,
    or_no_run,
    override,
    stat,
    state_timeline,
    states,
    steps,
    table,
    timeseries,
)
from scripts.dashboards.promql import (
    COMPLETION,
    FIRING,
    JOB,
    PROMPT,
    PROXY_JOB,
    TASK_LABELS,
    added,
    latest,
    observations,
    quantile,
    quantile_so_far,
    ratio,
    recorded,
    select,
    served,
    total,
)
from scripts.dashboards.task_panels import (
    cost_tiles,
    energy_tile,
    joules_per_success,
    price_variables,
    tasks_table,
    time_breakdown,
    window_link,
)

from joulebench import metrics as m

UID = "llm-live"
OWN_JOBS = 'job=~"joulebench.*"'
PROXY_USED = f"unless (max_over_time(up{{{PROXY_JOB}}}[$__range]) == 0)"
NO_OLLAMA = "No data: no Ollama answers, or it has no model in memory"
NO_SERVER = "No data: no model server is scraped, and no proxy is used"
SERVER_LEGEND = "{{server}} {{model}}"
COLUMNS = (
    *("From", "Duration", "Prompt", "Output", "Speed", "TTFT", "Energy", "Energy ±", "Charged"),
    *("Lowest", "LLM calls", "Throttled"),
)


def build() -> Json:
    layout = Layout()
    layout.row("Now")
    first, second = [*progress_tiles(), *cost_tiles()], [energy_tile(), *hardware_tiles()]
    for line, height in ((first, 3), (second, 4)):
        for tile in line:
            layout.add(tile, {"Finished tasks": 6, "Energy": 9}.get(tile["title"], 3), height)
    layout.add(model_tile(), 12, 3)
    layout.add(source_tile(), 6, 3)
    layout.all(trouble_tiles(), 3, 3)
    layout.row("GPU")
    layout.all([power(), temperature(), phase_timeline(), throttling_timeline()], 12, 8)
    layout.add(utilization(), 24, 6)
    layout.row("Model")
    layout.all(model_panels(), 12, 8)
    layout.row("Tasks")
    layout.add(task_table(), 24, 11)
    layout.add(time_breakdown(), 24, 6)
    layout.row("Models in memory")
    layout.add(loaded_models(), 16, 6)
    layout.add(model_loads(), 8, 6)
    layout.row("Model server: vLLM, SGLang, llama.cpp, or the server behind the proxy", collapsed=True)
    layout.all(server_panels(), 12, 7)
    layout.row("Metering proxy", collapsed=True)
    layout.all(proxy_panels.tiles(), 8, 6)
    layout.all(proxy_panels.graphs(), 8, 8)
    layout.add(proxy_panels.task_table(), 24, 8)
    layout.row("Data quality", collapsed=True)
    layout.all(health_panels(), 12, 7)
    return dashboard(
        UID,
        "Joulebench: live run",
        "Is the benchmark run going well right now, and which task was slow, dear, unsure or throttled?",
        layout,
        variables=variables(*price_variables()),
        annotations=marks(),
    )


def progress_tiles() -> list[Json]:
    return [
        stat(
            "Finished tasks",
            "Tasks that finished in this time range, by status, and the number that is planned where the benchmark reports it.",
            [
                Query(f"sum by (status) ({added(m.RUN_TASKS)})", "{{status}}", "instant"),
                Query(total(m.RUN_TASKS_PLANNED), "planned", "instant"),
            ],
            "none",
        ),
        stat(
            "Current phase",
            "What each worker is doing.",
            [Query(or_no_run(PHASE_OF_WORKER), "{{worker}}", "instant")],
            "none",
            mappings=states({**PHASES, 0: ("idle", "text"), **NO_RUN_STATE}),
        ),
        stat(
            "Decode speed",
            "Completion tokens divided by the time that the server spent on decoding, over the tasks in this time range.",
            [Query(ratio(total(m.TASK_DECODE_TOKENS), total(m.TASK_DECODE, suffix="_sum")), "decode", "instant")],
            "suffix:tok/s",
            decimals=1,
        ),
        stat(
            "TTFT p95",
            "95th percentile of the time to first token of streamed calls, over the runs in this time range until now.",
            [Query(quantile_so_far(0.95, m.CALL_TTFT), "p95", "instant")],
            "s",
        ),
        joules_per_success(),
    ]


def model_tile() -> Json:
    return stat(
        "Models",
        "Models of the tasks in this time range.",
        [Query(f"count by (model) ({latest(m.TASK_INFO)})", "{{model}}", "instant")],
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
            "Joulebench alerts that are firing; the list is at the end of this dashboard.",
            [Query(f"count({FIRING}) or vector(0)", "firing", "instant")],
            "none",
            thresholds=steps((None, "green"), (1, "orange")),
        ),
    ]


def model_panels() -> list[Json]:
    prompt, completion = (recorded("run_token:joulebench_task_tokens:per_second1m", token) for token in (PROMPT, COMPLETION))
    watts = recorded("instance:joulebench_gpu_energy_joules:rate1m")
    confidence = ratio(total(m.TASK_CONFIDENCE, suffix="_sum"), total(m.TASK_CONFIDENCE, suffix="_count"))
    share: Json = {"unit": "percentunit", "max": 1, "decimals": 1}
    return [
        timeseries(
            "Token throughput",
            "Tokens per second of wall time over the last minute, all tasks of a run together. A call's tokens count when it"
            " ends. Prompt tokens include those from the prefix cache.",
            [
                Query(f"sum by (run_id) ({prompt})", "{{run_id}} prompt"),
                Query(completion, "{{run_id}} completion"),
            ],
            "suffix:tok/s",
            empty=NO_CALLS,
        ),
        timeseries(
            "Joules per output token",
            "Energy of all GPUs divided by the completion tokens of all runs, over the last minute. High during prefill.",
            [Query(f"sum({watts}) / (sum({completion}) > 0)", "J per token")],
            "joule",
            empty=NO_CALLS,
        ),
        heatmap(
            "Time to first token",
            "Streamed calls by their time to first token; every call is in one cell.",
            Query(observations(m.CALL_TTFT), "{{le}}", "heatmap"),
            "s",
            empty=NO_CALLS,
        ),
        timeseries(
            "Latency",
            "Median and 95th percentile over the last minute.",
            [
                Query(quantile(0.5, m.CALL_TTFT), "TTFT p50"),
                Query(quantile(0.95, m.CALL_TTFT), "TTFT p95"),
                Query(quantile(0.95, m.CALL_DURATION), "call p95"),
            ],
            "s",
            empty=NO_CALLS,
        ),
        heatmap(
            "Tool-call confidence",
            "Tool calls by confidence: the smaller of that of the tool's name and of the least certain argument token. Calls"
            " whose tokens were not located are not shown.",
            Query(observations(m.TOOL_CONFIDENCE), "{{le}}", "heatmap"),
            "percentunit",
            scheme="Blues",
            empty=NO_CALLS,
        ),
        bargauge(
            "Tool calls by outcome",
            "Tool calls of the tasks in this time range by outcome, and the mean confidence of those that have one.",
            [
                Query(total(m.TASK_TOOL_CALLS, by="outcome"), "{{outcome}}", "instant"),
                Query(confidence, "mean confidence", "instant"),
            ],
            "none",
            overrides=[override("mean confidence", **share)],
            empty=NO_CALLS,
        ),
    ]


def task_table() -> Json:
    return tasks_table(
        "Tasks by time",
        "One row per task, live and finished. A click on the name opens the task's details, or narrows this board to its time."
        " Energy is that of the task's window, ± half the distance of its guaranteed bounds; Charged is the task's share of it"
        " where tasks overlap. Both come a moment after the end. Empty: not known, never 0.",
        COLUMNS,
        [window_link("llm-task", "Details of this task", with_task=True), window_link(UID, "Only the time of this task")],
        narrow=True,
    )


def model_loads() -> Json:
    return bargauge(
        "Model loads",
        "Loads and unloads of models by Ollama in this time range, as the exporter observed them. Each load within a run costs"
        " its task seconds and joules: raise keep_alive or use fewer models at once.",
        [
            Query(f"max by (model) ({added(m.OLLAMA_MODEL_LOADS)})", "{{model}} loaded", "instant"),
            Query(f"max by (model) ({added(m.OLLAMA_MODEL_UNLOADS)})", "{{model}} unloaded", "instant"),
        ],
        "none",
        empty=NO_OLLAMA,
    )


def loaded_models() -> Json:
    by = "instance, model"
    loaded = {
        "Model": f"max by ({by}, family, parameter_size, quantization) ({select(m.OLLAMA_MODEL_INFO)})",
        "Size": f"max by ({by}) ({select(m.OLLAMA_MODEL_SIZE)})",
        "In VRAM": f"max by ({by}) ({select(m.OLLAMA_MODEL_VRAM)})",
        "Share in VRAM": f"max by ({by}) ({select(m.OLLAMA_MODEL_OFFLOAD)})",
        "Context": f"max by ({by}) ({select(m.OLLAMA_MODEL_CONTEXT)})",
        "KV cache": f"max by ({by}) ({select(m.OLLAMA_MODEL_KV_CACHE)})",
        "Unloads": f"max by ({by}) (floor(1000 * {select(m.OLLAMA_MODEL_EXPIRES)}))",
    }
    values = {f"Value #{chr(ord('A') + place)}": heading for place, heading in enumerate(loaded)}
    names = {
        "instance": "Exporter",
        "model": "Model",
        "family": "Family",
        "parameter_size": "Parameters",
        "quantization": "Quantization",
    }
    return table(
        "Loaded models",
        "Models in Ollama's memory. Below 100 % in VRAM, part of the model runs on the CPU, several times slower. KV cache is an"
        " estimate from the file's metadata, at the full context; n/a for an unknown layout.",
        [Query(expr, "__auto", "table") for expr in loaded.values()],
        {**names, **{field: heading for field, heading in values.items() if heading != "Model"}},
        drop=("Value #A",),
        overrides=[
            *(override(name, unit="bytes") for name in ("Size", "In VRAM", "KV cache")),
            override("Share in VRAM", unit="percentunit"),
            override("Unloads", unit="dateTimeFromNow"),
        ],
        empty=NO_OLLAMA,
    )


def server_panels() -> list[Json]:
    latencies = {"TTFT": "time_to_first_token_seconds", "between tokens": "inter_token_seconds"}
    return [
        timeseries(
            "Server tokens per second",
            "Prompt tokens, cached ones included, and generated tokens per second over the last minute, of all clients.",
            [
                Query(served("prompt_tokens:rate1m"), f"{SERVER_LEGEND} prompt"),
                Query(served("completion_tokens:rate1m"), f"{SERVER_LEGEND} generated"),
            ],
            "suffix:tok/s",
            empty=NO_SERVER,
        ),
        timeseries(
            "Server requests",
            "Running requests, and those in the server's queue. A growing queue is time to first token that is not the model's."
            " The proxy does not see the queue.",
            [
                Query(served("running_requests:sum"), f"{SERVER_LEGEND} running"),
                Query(served("waiting_requests:sum"), f"{SERVER_LEGEND} waiting"),
            ],
            "none",
            empty=NO_SERVER,
        ),
        timeseries(
            "Server latency",
            "Median and 95th percentile over five minutes of the time to first token and of the time between two tokens, by the"
            " server's own histograms or the proxy's, interpolated in their buckets, which each server chooses.",
            [
                Query(served(f"{metric}:{share}_5m"), f"{SERVER_LEGEND} {name} {share}")
                for name, metric in latencies.items()
                for share in ("p50", "p95")
            ],
            "s",
            empty=NO_SERVER,
        ),
        timeseries(
            "KV cache and prefix cache",
            "Share of the KV cache in use: near 100 % the server preempts requests or lets them wait. And the share of prompt"
            " tokens served from the prefix cache.",
            [
                Query(served("kv_cache:ratio"), f"{SERVER_LEGEND} KV cache"),
                Query(served("cached_prompt_tokens:ratio1m"), f"{SERVER_LEGEND} prompt tokens cached"),
            ],
            "percentunit",
            maximum=1,
            empty=NO_SERVER,
        ),
    ]


def health_panels() -> list[Json]:
    up = states({0: ("down", "red"), 1: ("up", "green")})
    works = states({0: ("fails", "red"), 1: ("works", "green")})
    sent = f'push_time_seconds{{{JOB}, run_id=~"$run_id"}} - on (job, {TASK_LABELS}) {select(m.TASK_SENT)}'
    newest = {
        "{{instance}} clock steps": f"max by (instance) (max_over_time({select(m.EXPORTER_CLOCK_STEPS)}[$__rate_interval]))",
        f"{GPU_LEGEND} counter resets": (
            f"max by (instance, gpu) (max_over_time({select(m.GPU_ENERGY_RESETS)}[$__rate_interval]))"
        ),
        f"{GPU_LEGEND} failed NVML reads": (
            f"sum by (instance, gpu) (max_over_time({select(m.GPU_READ_ERRORS)}[$__rate_interval]))"
        ),
        "{{run_id}} {{worker}} failed pushes": (
            f"max by (run_id, worker) (max_over_time({select(m.PUSH_FAILURES)}[$__rate_interval]))"
        ),
    }
    return [
        table(
            "Firing alerts",
            "Joulebench alerts that are firing. What to do about each is in prometheus/RUNBOOK.md under its name.",
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
            empty="No alert is firing",
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
            "Data-quality events",
            "Since the exporter or the worker started: steps of the wall clock, resets of the energy counter, NVML reads that"
            " failed, pushes that the Pushgateway did not accept.",
            [Query(expr, legend) for legend, expr in newest.items()],
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
