"""The live dashboard's tables: the tasks one by one, with a link to each one's time window, then runs, loaded models and GPUs.

Rows of a table come from several queries that share their key columns, and nothing but those; Grafana's merge joins on exactly
the fields that all of them have.
"""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query, hidden, override, states
from scripts.dashboards.panels import bargauge, table
from scripts.dashboards.promql import TASK_LABELS, latest, of_model, per_task, ratio, select, total

from joulebench import catalogue as c

STATUS_COLOURS = {"success": "green", "failure": "red", "timeout": "orange", "error": "red", "unknown": "text", "running": "blue"}


def task_panels(uid: str) -> list[tuple[Json, int, int]]:
    return [(tasks_table(uid), 24, 11), (time_by_activity(), 12, 7), (joules_by_model(), 12, 7)]


def tasks_table(uid: str) -> Json:
    info = f"max by ({TASK_LABELS}, task_name, model) ({latest(c.TASK_INFO)})"
    every_task = f"max by ({TASK_LABELS}) ({latest(c.TASK_INFO)})"
    status = (
        f"max by ({TASK_LABELS}, status) ({of_model(latest(c.TASK_STATUS))})"
        f' or on ({TASK_LABELS}) label_replace({every_task}, "status", "running", "", "")'
    )
    begun = f"max by ({TASK_LABELS}) ({of_model(latest(c.TASK_START))})"
    ended = f"max by ({TASK_LABELS}) ({of_model(latest(c.TASK_END))})"
    now = f"0 * {every_task} + time()"
    duration = f"max by ({TASK_LABELS}) ({of_model(latest(c.TASK_DURATION))})"
    uncertainty = f"({per_task(c.TASK_ENERGY_HIGH)} - {per_task(c.TASK_ENERGY_LOW)}) / 2"
    queries = {
        "Task": info,
        "Status": status,
        "From": f"floor(1000 * {begun})",
        "Until": f"floor(1000 * ({ended} or on ({TASK_LABELS}) {now}))",
        "Duration": duration,
        "Prompt tokens": per_task(c.TASK_PROMPT_TOKENS),
        "Output tokens": per_task(c.TASK_COMPLETION_TOKENS),
        "Output speed": ratio(per_task(c.TASK_DECODE_TOKENS), per_task(c.TASK_DECODE, suffix="_sum")),
        "TTFT mean": ratio(per_task(c.TASK_TTFT, suffix="_sum"), per_task(c.TASK_TTFT, suffix="_count")),
        "Energy": per_task(c.TASK_ENERGY),
        "Energy ±": uncertainty,
        "Least sure": per_task(c.TASK_CONFIDENCE_MIN),
        "Surest": per_task(c.TASK_CONFIDENCE_MAX),
        "LLM calls": per_task(c.TASK_LLM_CALLS),
        "LLM errors": per_task(c.TASK_LLM_ERRORS),
        "Tool calls": per_task(c.TASK_TOOL_CALLS),
    }
    fields = {heading: f"Value #{chr(ord('A') + place)}" for place, heading in enumerate(queries)}
    columns = {"task_name": "Task", "model": "Model", "status": "Status"}
    columns |= {fields[heading]: heading for heading in queries if heading not in ("Task", "Status")}
    columns |= {"run_id": "Run", "task_id": "Task id", "worker": "Worker"}
    window = (
        f"/d/{uid}?from=${{__data.fields.From.numeric}}&to=${{__data.fields.Until.numeric}}"
        "&var-run_id=${__data.fields.Run}&${job:queryparam}&${instance:queryparam}"
    )
    link = [{"title": "Only the time of this task", "url": window, "targetBlank": False}]
    return table(
        "Tasks",
        "One row a task, live and finished, in this time range. A click on the name narrows all panels to the time of the task."
        " Energy comes a moment after the end; ± is half the distance of its guaranteed bounds. Empty: not known, never 0.",
        [Query(expr, "__auto", "table") for expr in queries.values()],
        columns,
        drop=("job", fields["Task"], fields["Status"]),
        overrides=[
            override("Task", links=link, custom__minWidth=160),
            override("Status", mappings=[status_mapping()], custom__cellOptions={"type": "color-text"}),
            hidden("Until"),
            override("From", unit="dateTimeAsIso"),
            override("Duration", unit="s", decimals=1),
            override("Output speed", unit="suffix:tok/s", decimals=1),
            override("TTFT mean", unit="s"),
            override("Energy", unit="joule", decimals=1),
            override("Energy ±", unit="joule", decimals=1),
            override("Least sure", unit="percentunit", decimals=0),
            override("Surest", unit="percentunit", decimals=0),
        ],
        sort="From",
    )


def status_mapping() -> Json:
    options = {name: {"color": colour, "index": place} for place, (name, colour) in enumerate(STATUS_COLOURS.items())}
    return {"type": "value", "options": options}


def time_by_activity() -> Json:
    parts = {"prefill": c.TASK_PREFILL, "decode": c.TASK_DECODE, "load and queue": c.TASK_LOAD, "tools": c.TASK_TOOL_DURATION}
    queries = [Query(total(metric, suffix="_sum"), name, "instant") for name, metric in parts.items()]
    return bargauge(
        "Where the time went",
        "Seconds of the tasks in this time range: prefill, decoding and loading by the server's clock, tools by the benchmark's;"
        " LLM calls as a whole for comparison.",
        [*queries, Query(total(c.TASK_LLM_DURATION, suffix="_sum"), "LLM calls, whole", "instant")],
        "s",
    )


def joules_by_model() -> Json:
    model = f"on ({TASK_LABELS}) group_left (model) {latest(c.TASK_INFO)}"
    energy = f"sum by (model) ({per_task(c.TASK_ENERGY)} * {model})"
    passed = f"sum by (model) (({latest(c.TASK_SUCCESS)} == 1) * {model})"
    return bargauge(
        "Joules per passed task, by model",
        "Energy of all tasks of a model in this time range, failed ones too, by the number of its tasks that passed. A model"
        " without a passed task is not shown.",
        [Query(f"{energy} / ({passed} > 0)", "{{model}}", "instant")],
        "joule",
        decimals=1,
    )


def inventory_panels() -> list[Json]:
    by = "instance, model"
    loaded = {
        "Model": f"max by ({by}, family, parameter_size, quantization) ({select(c.OLLAMA_MODEL_INFO)})",
        "Size": f"max by ({by}) ({select(c.OLLAMA_MODEL_SIZE)})",
        "In VRAM": f"max by ({by}) ({select(c.OLLAMA_MODEL_VRAM)})",
        "Share in VRAM": f"max by ({by}) ({select(c.OLLAMA_MODEL_OFFLOAD)})",
        "Context": f"max by ({by}) ({select(c.OLLAMA_MODEL_CONTEXT)})",
        "Unloads": f"max by ({by}) (floor(1000 * {select(c.OLLAMA_MODEL_EXPIRES)}))",
    }
    values = {f"Value #{chr(ord('A') + place)}": heading for place, heading in enumerate(loaded)}
    names = {
        "instance": "Exporter",
        "model": "Model",
        "family": "Family",
        "parameter_size": "Parameters",
        "quantization": "Quantization",
    }
    gpu_labels = ("instance", *c.GPU_INFO.labels)
    gpus = {
        "name": "GPU",
        "gpu": "Index",
        "uuid": "UUID",
        "architecture": "Architecture",
        "driver_version": "Driver",
        "source": "Source",
        "energy_method": "Energy by",
        "instance": "Exporter",
        "Value": "Up",
    }
    source = {
        "type": "value",
        "options": {"nvml": {"color": "green", "index": 0}, "simulated": {"color": "orange", "index": 1, "text": "SIMULATED"}},
    }
    return [
        table(
            "Live runs",
            "Runs that have not ended, one row a worker.",
            [Query(f"max by (run_id, worker, suite, version) ({select(c.RUN_INFO)})", "__auto", "table")],
            {"run_id": "Run", "worker": "Worker", "suite": "Suite", "version": "Joulebench"},
            drop=("Value",),
        ),
        table(
            "Loaded models",
            "Models in Ollama's memory. Below 100 % in VRAM, part of the model runs on the CPU, several times slower.",
            [Query(expr, "__auto", "table") for expr in loaded.values()],
            {**names, **{field: heading for field, heading in values.items() if heading != "Model"}},
            drop=("Value #A",),
            overrides=[
                override("Size", unit="bytes"),
                override("In VRAM", unit="bytes"),
                override("Share in VRAM", unit="percentunit"),
                override("Unloads", unit="dateTimeFromNow"),
            ],
        ),
        table(
            "GPUs",
            "What the exporter found, whether it is measured (nvml) or invented (simulated), where the joules come from, and"
            " whether the card still answers.",
            [
                Query(
                    f"{select(c.GPU_UP)} * on (instance, gpu, uuid) group_left ({', '.join(c.GPU_INFO.labels[2:])})"
                    f" max by ({', '.join(gpu_labels)}) ({select(c.GPU_INFO)})",
                    "__auto",
                    "table",
                )
            ],
            gpus,
            drop=("job",),
            overrides=[
                override("Source", mappings=[source], custom__cellOptions={"type": "color-text"}),
                override(
                    "Up", mappings=states({0: ("lost", "red"), 1: ("up", "green")}), custom__cellOptions={"type": "color-text"}
                ),
            ],
        ),
    ]
