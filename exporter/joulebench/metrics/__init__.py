"""Every metric that Joulebench exports or pushes, declared once: one file for each thing that publishes.

``METRICS.md``, the exposition, the PromQL of the export, the result columns and the checks on dashboards and rules all come
from here; a contract test fails on a name or label that is typed anywhere else. Names end in their base unit, counters in
``_total``; label sets are closed, and no label ever carries prompt, argument or token text.
"""

from __future__ import annotations

from joulebench.metrics import exporter, gpu, host, ollama, prices, process, proxy, run, task
from joulebench.metrics.exporter import *
from joulebench.metrics.gpu import *
from joulebench.metrics.host import *
from joulebench.metrics.label_sets import *
from joulebench.metrics.metric import PREFIX as PREFIX
from joulebench.metrics.metric import Kind as Kind
from joulebench.metrics.metric import Metric as Metric
from joulebench.metrics.ollama import *
from joulebench.metrics.prices import *
from joulebench.metrics.process import *
from joulebench.metrics.proxy import *
from joulebench.metrics.run import *
from joulebench.metrics.task import *

_PUBLISHED = (gpu, host, exporter, ollama, prices, run, task, proxy, process)

METRICS: tuple[Metric, ...] = tuple(
    value for published in _PUBLISHED for value in vars(published).values() if isinstance(value, Metric)
)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
BY_SERIES_NAME: dict[str, Metric] = {series: metric for metric in METRICS for series in metric.series_names}

GROUP_LABELS = ("run_id", "task_id", "worker")
"""Labels that pushed series carry from the Pushgateway's grouping key, beside ``job``."""
