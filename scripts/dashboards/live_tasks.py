"""The live dashboard's tables: the tasks one by one, with a link to each one's time window, then runs, loaded models and GPUs."""

from __future__ import annotations

from scripts.dashboards.fields import Json, Query, override, states
from scripts.dashboards.panels import bargauge, table
from scripts.dashboards.promql import TASK_LABELS, in_range, latest, per_task, select, total
from scripts.dashboards.task_rows import tasks_table, window_link

from joulebench import catalogue as c

COLUMNS = (
    "From",
    "Duration",
    "Prompt",
    "Output",
    "Speed",
    "TTFT",
    "Energy",
    "Energy ±",
    "Least sure",
    "Surest",
    "LLM calls",
    "LLM errors",
    "Tool calls",
)


def task_panels(uid: str) -> list[tuple[Json, int, int]]:
    table_of_tasks = tasks_table(
        "Tasks",
        "One row a task, live and finished, in this time range. A click on the name leads to the task's details, or narrows all"
        " panels here to the time of the task. Energy comes a moment after the end; ± is half the distance of its guaranteed"
        " bounds. Empty: not known, never 0.",
        COLUMNS,
        [window_link("llm-task", "Details of this task", with_task=True), window_link(uid, "Only the time of this task")],
    )
    return [(table_of_tasks, 24, 11), (time_by_activity(), 12, 7), (joules_by_model(), 12, 7)]


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
    passed = f"sum by (model) (({in_range(latest(c.TASK_SUCCESS))} == 1) * {model})"
    return bargauge(
        "Joules per passed task, by model",
        "Energy of all tasks of a model in this time range, failed ones too, by the number of its tasks that passed. A model"
        " without a passed task is not shown.",
        [Query(f"{energy} / ({passed} > 0)", "{{model}}", "instant")],
        "joule",
        decimals=1,
    )


SOURCE_NAMES: Json = {
    "type": "value",
    "options": {"nvml": {"color": "green", "index": 0}, "simulated": {"color": "orange", "index": 1, "text": "SIMULATED"}},
}


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
                override("Source", mappings=[SOURCE_NAMES], custom__cellOptions={"type": "color-text"}),
                override(
                    "Up", mappings=states({0: ("lost", "red"), 1: ("up", "green")}), custom__cellOptions={"type": "color-text"}
                ),
            ],
        ),
    ]
