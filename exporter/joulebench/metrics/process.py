"""Published by every long-running process of Joulebench about itself: exporter, proxy and a benchmark's ``Run``."""

from __future__ import annotations

from joulebench.metrics.metric import counter

LOOP_ERRORS = counter(
    "loop_errors_total",
    "Unforeseen errors in background threads and tasks of this process, by loop; its log has each traceback once.",
    ("loop",),
    unused_because="0 unless there is a bug; /healthz and PUSH_STATE show the error itself",
)
QUEUE_DROPPED = counter(
    "queue_dropped_total",
    "Entries that a full queue of this process dropped, by queue.",
    ("queue",),
    unused_because="0 unless a process is overloaded; its log says which queue",
)
