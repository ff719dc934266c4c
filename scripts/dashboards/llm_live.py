"""The live dashboard: is the run going well right now, and which task was slow, dear, unsure or throttled?

Tiles first, then hardware, then what the model does, then the tasks one by one; what is loaded and the health of the collection
come last.
"""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.fields import Json
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, dashboard
from scripts.dashboards.live_gpu import gpu_panels
from scripts.dashboards.live_health import health_panels
from scripts.dashboards.live_model import model_panels
from scripts.dashboards.live_tasks import inventory_panels, task_panels
from scripts.dashboards.live_tiles import tiles

UID = "llm-live"


def build() -> Json:
    layout = Layout()
    layout.row("Now")
    for panel, width, height in tiles():
        layout.add(panel, width, height)
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
        variables=variables(*costs.variables()),
        annotations=marks(),
    )
