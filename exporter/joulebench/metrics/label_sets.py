"""Closed label sets and histogram buckets that several metrics share."""

from __future__ import annotations

GPU = ("gpu", "uuid")
OWNER = ("server", "unit", "container_id", "pod_uid", "slurm_job")
"""Who a process on a GPU belongs to: the addresses that it serves, and its systemd unit, container, pod and Slurm job. Plain
``container``, ``pod`` and ``job`` are labels that Prometheus gives the exporter itself."""
ZONE = ("zone", "package")
"""A RAPL zone and the number of its CPU package, empty for the platform."""
TASK = ("model", "suite")
"""Constant for a task, on every series of it."""

POWER_CAP = "sw_power_cap"
"""Throttle reason that counts only while the power is near the limit."""
OTHER_REASON = "other"
"""Throttle reasons that have no name here, as those that only newer drivers know."""
THROTTLE_REASONS = (POWER_CAP, "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake", OTHER_REASON)
THERMAL_REASONS = ("sw_thermal", "hw_thermal")
GPU_SOURCES = ("nvml", "amd", "simulated")
"""Where GPU readings come from, as options name it and as the labels ``source`` and ``gpu_source`` say; ``none`` without any."""
LINKS, DIRECTIONS = ("pcie", "nvlink"), ("tx", "rx")
HOST_ZONES = ("package", "dram", "psys")
CLOCK_DOMAINS = ("graphics", "sm", "memory")
TOOL_ERROR = "tool_error"
"""The outcome that only the caller of a tool sees; all others are in the model's reply."""
TOOL_OUTCOMES = ("ok", "malformed", "undeclared", "schema_invalid", TOOL_ERROR, "unchecked")
TASK_STATUSES = ("success", "failure", "timeout", "error", "unknown")
PHASES = ("idle", "prefill", "decode", "tool")
API_TOKENS = ("prompt", "cached_prompt", "completion")
PROXY_RESULTS = ("ok", "refused", "broken", "client_gone", "unreachable")
PROXY_UNREAD_CAUSES = (
    "other_path",
    "too_large",
    "encoding",
    "not_json",
    "no_usage",
    "impossible_zero",
    "one_choice",
    "queue_full",
)
SPAN_STATUSES = ("ok", "partial", "not_found", "no_logprobs", "speculative", "masked")

SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 640.0)
TOKEN_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
TOKEN_RATE_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 1e5)
CONFIDENCE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
