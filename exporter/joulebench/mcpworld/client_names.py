"""Names that the client's files and its users' analyses have: JSON keys, file names and CSV columns, in their order.

Nothing here is ours to change. GPU megabytes are MiB, percentages are 0 to 100, ``_kwh`` has eight decimals.
"""

from __future__ import annotations

RESULT_PREFIX = "result_"
MONITOR_LOG_PATTERN = "gpu_metrics_*.csv"

HARDWARE_KEYS = (
    "avg_gpu_util_pct",
    "max_gpu_util_pct",
    "min_gpu_util_pct",
    "avg_vram_mb",
    "peak_vram_mb",
    "min_vram_mb",
    "avg_temp_c",
    "max_temp_c",
    "avg_power_w",
    "max_power_w",
    "total_energy_joules",
    "total_energy_kwh",
    "energy_h1_joules",
    "energy_h2_joules",
    "avg_power_h1_w",
    "avg_power_h2_w",
    "energy_rate_ratio_h2_h1",
    *(f"energy_q{i}_joules" for i in range(1, 6)),
    *(f"avg_power_q{i}_w" for i in range(1, 6)),
    "energy_rate_ratio_q4_q2",
    "avg_vram_h1_mb",
    "avg_vram_h2_mb",
    "vram_ratio_h2_h1",
    *(f"avg_vram_q{i}_mb" for i in range(1, 6)),
    "vram_ratio_q4_q2",
    "sample_count",
    "monitoring_duration_sec",
    "avg_container_cpu_pct",
    "max_container_cpu_pct",
    "avg_container_mem_mb",
    "peak_container_mem_mb",
)
"""``gpu_hardware_metrics`` of a result file."""

MONITOR_COLUMNS = ("timestamp", "gpu_util_pct", "vram_mb", "temp_c", "power_w", "container_cpu_pct", "container_mem_mb")
"""``gpu_metrics_*.csv``: several GPUs as one, with mean utilization, summed VRAM, highest temperature, summed power."""

SUMMARY_COLUMNS = ("task_id", "status", "reason", "log_dir")
METRICS_COLUMNS = (
    "task_id",
    "status",
    "reason",
    "total_duration_seconds",
    "llm_call_count",
    "total_tool_calls",
    "total_error_count",
    "total_steps",
    "completed_steps",
    "avg_gpu_util_pct",
    "max_gpu_util_pct",
    "avg_vram_mb",
    "peak_vram_mb",
    "avg_temp_c",
    "max_temp_c",
    "avg_power_w",
    "max_power_w",
    "total_energy_joules",
    "total_energy_kwh",
    "avg_tokens_per_second",
    "overall_tokens_per_second",
    "total_completion_tokens",
    "total_generation_time_sec",
    "avg_tool_confidence",
    "min_tool_confidence",
    "avg_container_cpu_pct",
    "max_container_cpu_pct",
    "avg_container_mem_mb",
    "peak_container_mem_mb",
    "log_dir",
)
"""``{suite}_metrics.csv``."""

_OF_HARDWARE = {
    "avg_gpu_util_pct": "gpu_avg_util_pct",
    "max_gpu_util_pct": "gpu_max_util_pct",
    "min_gpu_util_pct": "gpu_min_util_pct",
    "avg_container_cpu_pct": "container_avg_cpu_pct",
    "max_container_cpu_pct": "container_max_cpu_pct",
    "avg_container_mem_mb": "container_avg_mem_mb",
    "peak_container_mem_mb": "container_peak_mem_mb",
}
HARDWARE_COLUMNS = {key: _OF_HARDWARE.get(key, f"gpu_{key}") for key in HARDWARE_KEYS}
"""Key of ``gpu_hardware_metrics`` -> its column of ``benchmark_results.csv``."""

VERDICTS = ("success", "failure", "timeout")
"""Statuses of TASK_END that say how the task went; ``stopped`` says only that somebody ended it."""
