"""The live dashboard's panels of what is there: runs, models in Ollama's memory, GPUs."""

from __future__ import annotations

from scripts.dashboards.absence import NO_READING
from scripts.dashboards.fields import Json, Query, override, states
from scripts.dashboards.panels import bargauge, table
from scripts.dashboards.promql import grown, select

from joulebench import metrics as m

NO_OLLAMA = "No data: no Ollama answers, or it has no model in memory"
SOURCE_NAMES: Json = {
    "type": "value",
    "options": {"nvml": {"color": "green", "index": 0}, "simulated": {"color": "orange", "index": 1, "text": "SIMULATED"}},
}


def inventory_panels() -> list[tuple[Json, int, int]]:
    """With their widths and heights."""
    return [(live_runs(), 14, 5), (loads(), 10, 5), (loaded_models(), 24, 5), (gpus(), 24, 5)]


def live_runs() -> Json:
    return table(
        "Live runs",
        "Runs that have not ended, one row a worker.",
        [Query(f"max by (run_id, worker, suite, version) ({select(m.RUN_INFO)})", "__auto", "table")],
        {"run_id": "Run", "worker": "Worker", "suite": "Suite", "version": "Joulebench"},
        drop=("Value",),
        empty="No data: no live run",
    )


def loads() -> Json:
    return bargauge(
        "Loads and unloads by Ollama",
        "How often the exporter saw a model come into Ollama's memory and leave it, in this time range. Each load within a run"
        " costs its task seconds and joules: raise keep_alive or use fewer models at once.",
        [
            Query(f"max by (model) ({grown(m.OLLAMA_MODEL_LOADS)})", "{{model}} loaded", "instant"),
            Query(f"max by (model) ({grown(m.OLLAMA_MODEL_UNLOADS)})", "{{model}} unloaded", "instant"),
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
        " estimate from the file's metadata, at the whole context; n/a for a layout that it does not know.",
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


def gpus() -> Json:
    gpu_labels = ("instance", *m.GPU_INFO.labels)
    columns = {
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
    return table(
        "GPUs",
        "What the exporter found, whether it is measured (nvml) or invented (simulated), where the joules come from, and"
        " whether the card still answers.",
        [
            Query(
                f"{select(m.GPU_UP)} * on (instance, gpu, uuid) group_left ({', '.join(m.GPU_INFO.labels[2:])})"
                f" max by ({', '.join(gpu_labels)}) ({select(m.GPU_INFO)})",
                "__auto",
                "table",
            )
        ],
        columns,
        drop=("job",),
        overrides=[
            override("Source", mappings=[SOURCE_NAMES], custom__cellOptions={"type": "color-text"}),
            override("Up", mappings=states({0: ("lost", "red"), 1: ("up", "green")}), custom__cellOptions={"type": "color-text"}),
        ],
        empty=NO_READING,
    )
