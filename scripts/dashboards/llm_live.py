"""The live dashboard: is the run going well right now, and which task was slow, dear, unsure or throttled?

Tiles first, then hardware, then what the model does, then the tasks one by one and what is loaded; closed at first are what
model servers and the proxy tell, and the health of the collection.
"""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.fields import Json
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, dashboard
from scripts.dashboards.live_gpu import gpu_panels
from scripts.dashboards.live_health import health_panels
from scripts.dashboards.live_inventory import inventory_panels
from scripts.dashboards.live_model import model_panels
from scripts.dashboards.live_proxy import proxy_panels, proxy_table, small_panels
from scripts.dashboards.live_servers import server_panels
from scripts.dashboards.live_tasks import task_panels
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
    for panel, width, height in inventory_panels():
        layout.add(panel, width, height)
    layout.row("Model server: vLLM, SGLang, llama.cpp, or what is behind the proxy", collapsed=True)
    layout.all(server_panels(), 12, 7)
    layout.row("Metering proxy", collapsed=True)
    layout.all(small_panels(), 6, 6)
    layout.all(proxy_panels(), 12, 7)
    layout.add(proxy_table(), 24, 8)
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
