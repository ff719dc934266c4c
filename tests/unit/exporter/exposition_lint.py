"""What promtool does not check of an exposition: unit suffixes, ratios, counters, infos and duplicate series."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

UNITS = ("joules", "watts", "seconds", "bytes", "celsius", "hertz", "ratio", "tokens", "info")
WITHOUT_UNIT = (
    "joulebench_exporter_collector_success",
    "joulebench_gpu_throttle_active",
    "joulebench_gpu_up",
    "joulebench_host_energy_up",
    "joulebench_exporter_gpus_expected",
    "joulebench_ollama_up",
    "joulebench_ollama_models_available",
    "joulebench_ollama_models_loaded",
    "joulebench_gpu_foreign_processes",
    "joulebench_gpu_unnamed_processes",
    "joulebench_gpu_process_owners_dropped",
)
"""Gauges that count things or say yes or no; everything else names its unit."""
ABOVE_ONE = ("joulebench_gpu_energy_crosscheck_ratio",)


def complaints(text: str) -> Iterator[str]:
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for family in text_string_to_metric_families(text):
        if not family.documentation:
            yield f"{family.name}: no HELP"
        ours = family.name.startswith("joulebench_")
        if ours and family.type == "gauge" and not family.name.endswith(UNITS) and family.name not in WITHOUT_UNIT:
            yield f"{family.name}: no known unit"
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            if series in seen:
                yield f"{series}: more than once"
            seen.add(series)
            if (family.type == "counter") != sample.name.endswith("_total"):
                yield f"{sample.name}: _total is for counters, and every counter has it"
            if sample.value != sample.value:
                yield f"{series}: NaN"
            if sample.name.endswith("_info") and ours and sample.value != 1:
                yield f"{series}: an info is 1"
            if sample.name.endswith("_ratio") and sample.name not in ABOVE_ONE and not 0 <= sample.value <= 1:
                yield f"{series}: {sample.value} is no ratio"
