"""The live dashboard: is the run going well right now, and which task was slow, dear, unsure or throttled?

Tiles first, then hardware, then what the model does, then the tasks one by one; what is loaded and the health of the collection
come last.
"""

from __future__ import annotations

from scripts.dashboards.fields import Json
from scripts.dashboards.layout import Layout, annotation, dashboard, query_variable
from scripts.dashboards.live_gpu import gpu_panels
from scripts.dashboards.live_health import health_panels
from scripts.dashboards.live_model import model_panels
from scripts.dashboards.live_queries import FIRING
from scripts.dashboards.live_tasks import inventory_panels, task_panels
from scripts.dashboards.live_tiles import tiles
from scripts.dashboards.promql import JOB, TASK_LABELS, select

from joulebench import catalogue as c

UID = "llm-live"


def build() -> Json:
    layout = Layout()
    layout.row("Now")
    for panel, width in tiles():
        layout.add(panel, width, 4)
    for title, panels in (("GPU", gpu_panels()), ("Model", model_panels())):
        layout.row(title)
        for panel in panels:
            layout.add(panel, 12, 8)
    layout.row("Task by task")
    for panel, width, height in task_panels(UID):
        layout.add(panel, width, height)
    layout.row("Runs, models and GPUs")
    for panel in inventory_panels():
        layout.add(panel, 24, 5)
    layout.row("Health of the collection", collapsed=True)
    for panel in health_panels():
        layout.add(panel, 12, 7)
    return dashboard(
        UID,
        "Joulebench: live run",
        "Is the benchmark run going well right now, and which task was slow, dear, unsure or throttled?",
        layout,
        variables=variables(),
        annotations=marks(),
    )


def variables() -> list[Json]:
    return [
        query_variable("job", "Job", c.EXPORTER_INFO.name),
        query_variable("instance", "Instance", f"{c.EXPORTER_INFO.name}{{{JOB}}}"),
        query_variable("run_id", "Run", f"{c.RUN_TASKS.name}{{{JOB}}}", newest_first=True),
        query_variable("model", "Model", f'{c.TASK_INFO.name}{{{JOB}, run_id=~"$run_id"}}', all_value=".*"),
        query_variable("gpu", "GPU", f'{c.GPU_INFO.name}{{{JOB}, instance=~"$instance"}}', all_value=".*"),
    ]


def marks() -> list[Json]:
    named = f"on ({TASK_LABELS}) group_left (task_name, model) {select(c.TASK_INFO)}"
    return [
        annotation(
            "Task starts",
            f"floor({select(c.TASK_START)} * 1000) * {named}",
            "blue",
            "{{task_name}} starts",
            "{{model}}, task {{task_id}}, worker {{worker}}",
            step="1s",
            useValueForTime=True,
        ),
        annotation("Alerts", FIRING, "red", "{{alertname}}", "{{severity}} {{instance}} {{gpu}} {{run_id}}", step="5s"),
    ]
