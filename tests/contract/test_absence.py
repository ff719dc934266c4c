"""Three ways in which a reading can be missing are told apart: a GPU without it, a host without a GPU, and a dead collection.

Each tile's own query is asked of promtool's engine over a few made-up series.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.contract.sources import ROOT, loaded
from tests.dashboard_queries import panels_of, queries_of

BOARD = loaded(ROOT / "dashboards/llm-gpu.json")
TILES = (
    "GPU utilization",
    "VRAM used",
    "Power of limit",
    "Hottest GPU",
    "Throttled by heat",
    "Smallest margin",
    "GPUs answering",
)
LABELS = 'job="joulebench", instance="host:18347"'
GPU = f'{LABELS}, gpu="0", uuid="GPU-0"'

NO_GPU = {f'joulebench_exporter_info{{{LABELS}, gpu_source="none"}}': "1x10"}
GPU_THAT_TELLS_NOTHING = {
    f'joulebench_exporter_info{{{LABELS}, gpu_source="nvml"}}': "1x10",
    f"joulebench_gpu_up{{{GPU}}}": "1x10",
}


def word(panel_title: str, value: float) -> str:
    """What the tile says for ``value``."""
    (panel,) = [panel for panel in panels_of(BOARD) if panel["title"] == panel_title]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    return str(mapping["options"][f"{value:g}"]["text"])


def check(promtool: Path, folder: Path, series: dict[str, str], expected: list[float], title: str) -> None:
    expr = next(expr for found, expr in queries_of(BOARD) if found == title)
    samples = [{"labels": "{}", "value": value} for value in expected]
    test = {
        "rule_files": [str(ROOT / "prometheus/rules/recording.yml")],
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": "5s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [{"expr": expr, "eval_time": "40s", "exp_samples": samples}],
            }
        ],
    }
    path = folder / "absence.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("title", TILES)
def test_a_host_without_a_gpu_says_so(promtool: Path, tmp_path: Path, title: str) -> None:
    check(promtool, tmp_path, NO_GPU, [-1001], title)
    assert word(title, -1001) == "no GPU reported"


@pytest.mark.parametrize("title", [title for title in TILES if title != "GPUs answering"])
def test_a_gpu_without_the_reading_is_not_a_dead_collection(promtool: Path, tmp_path: Path, title: str) -> None:
    check(promtool, tmp_path, GPU_THAT_TELLS_NOTHING, [-1000], title)
    assert word(title, -1000) == "n/a"


@pytest.mark.parametrize("title", TILES)
def test_a_dead_collection_finds_nothing_and_the_tile_says_no_data(promtool: Path, tmp_path: Path, title: str) -> None:
    check(promtool, tmp_path, {}, [], title)
    (panel,) = [panel for panel in panels_of(BOARD) if panel["title"] == title]
    assert panel["fieldConfig"]["defaults"]["noValue"] == "No data"
