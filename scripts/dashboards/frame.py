"""What all dashboards have in common: the variables on top and the marks in their graphs."""

from __future__ import annotations

from scripts.dashboards.fields import Json
from scripts.dashboards.layout import annotation, query_variable
from scripts.dashboards.live_queries import FIRING
from scripts.dashboards.promql import JOB, TASK_LABELS, select

from joulebench import metrics as m


def variables(*more: Json, single_run: bool = False) -> list[Json]:
    return [
        query_variable("job", "Job", m.EXPORTER_INFO.name),
        query_variable("instance", "Instance", f"{m.EXPORTER_INFO.name}{{{JOB}}}"),
        query_variable("run_id", "Run", f"{m.RUN_TASKS.name}{{{JOB}}}", newest_first=True, single=single_run),
        query_variable("model", "Model", f'{m.TASK_INFO.name}{{{JOB}, run_id=~"$run_id"}}', all_value=".*"),
        query_variable("gpu", "GPU", f'{m.GPU_INFO.name}{{{JOB}, instance=~"$instance"}}', all_value=".*"),
        *more,
    ]


def marks(*more: Json) -> list[Json]:
    named = f"on ({TASK_LABELS}) group_left (task_name, model) {select(m.TASK_INFO)}"
    return [
        annotation(
            "Task starts",
            f"floor({select(m.TASK_START)} * 1000) * {named}",
            "blue",
            "{{task_name}} starts",
            "{{model}}, task {{task_id}}, worker {{worker}}",
            step="1s",
            useValueForTime=True,
        ),
        *more,
        annotation("Alerts", FIRING, "red", "{{alertname}}", "{{severity}} {{instance}} {{gpu}} {{run_id}}", step="5s"),
    ]
