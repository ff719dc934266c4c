"""Three ways in which a reading can be missing are kept apart: a GPU without it, a host without a GPU, and a dead collection.

Each tile's own query is asked of promtool's engine over a few made-up series.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.contract.sources import DASHBOARDS, ROOT, loaded
from tests.dashboard_queries import panels_of, queries_of

BOARD = loaded(ROOT / "dashboards/llm-gpu.json")
TILES = (
    "GPU utilization",
    "VRAM used",
    "Power (% of limit)",
    "Hottest GPU",
    "Thermal throttling",
    "Temperature margin",
    "GPUs answering",
)
GRAPHS_OF_THE_CARD = {
    "llm-gpu": ("Temperature and limit", "Power and limit", "Utilization and VRAM", "Clocks", "Throttled time by reason"),
    "llm-live": ("Power and limit", "Temperature and limit", "Utilization and VRAM", "Throttling by reason"),
    "llm-task": ("Power and limit", "Temperature and limit", "Utilization and VRAM", "Throttling by reason"),
}
"""On boards that have the tile "GPU source", to which their words for "nothing to draw" point."""
LABELS = 'job="joulebench", instance="host:18347"'
GPU = f'{LABELS}, gpu="0", uuid="GPU-0"'

NO_GPU = {f'joulebench_exporter_info{{{LABELS}, gpu_source="none"}}': "1x10"}
GPU_THAT_TELLS_NOTHING = {
    f'joulebench_exporter_info{{{LABELS}, gpu_source="nvml"}}': "1x10",
    f"joulebench_gpu_up{{{GPU}}}": "1x10",
}


UP = f"up{{{LABELS}}}"
SOURCES: dict[str, tuple[dict[str, str], list[float]]] = {
    "no GPU reported": ({**NO_GPU, UP: "1x10"}, [0]),
    "NVML, measured": ({**GPU_THAT_TELLS_NOTHING, UP: "1x10"}, [1]),
    "SIMULATED": ({f'joulebench_exporter_info{{{LABELS}, gpu_source="simulated"}}': "1x10", UP: "1x10"}, [3]),
    "GPU reading fails": (
        {
            **GPU_THAT_TELLS_NOTHING,
            f'joulebench_exporter_collector_success{{{LABELS}, collector="gpu"}}': "0x10",
            f'joulebench_exporter_collector_success{{{LABELS}, collector="ollama"}}': "0x10",
        },
        [4],
    ),
    "exporter unreachable": ({UP: "0x10", 'up{job="joulebench-pushgateway", instance="host:9091"}': "0x10"}, [5]),
}


def word(panel_title: str, value: float) -> str:
    """What the tile says for ``value``."""
    (panel,) = [panel for panel in panels_of(BOARD) if panel["title"] == panel_title]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    return str(mapping["options"][f"{value:g}"]["text"])


def check(promtool: Path, folder: Path, series: dict[str, str], expected: list[float], title: str, *, labels: str = "{}") -> None:
    expr = next(expr for found, expr in queries_of(BOARD) if found == title)
    samples = [{"labels": labels, "value": value} for value in expected]
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


@pytest.mark.parametrize(("says", "series", "value"), [(says, *of) for says, of in SOURCES.items()], ids=SOURCES)
def test_the_source_of_readings_says_why_there_are_none(
    promtool: Path, tmp_path: Path, says: str, series: dict[str, str], value: list[float]
) -> None:
    check(promtool, tmp_path, series, value, "GPU source", labels='{instance="host:18347"}')
    assert word("GPU source", value[0]) == says


@pytest.mark.parametrize("board", GRAPHS_OF_THE_CARD)
def test_a_graph_of_the_card_with_nothing_to_draw_points_to_the_tile_that_knows_why(board: str) -> None:
    panels = {panel["title"]: panel for panel in panels_of(loaded(ROOT / f"dashboards/{board}.json"))}
    assert "GPU source" in panels
    for title in GRAPHS_OF_THE_CARD[board]:
        assert "GPU source" in panels[title]["fieldConfig"]["defaults"]["noValue"], title


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_where_no_proxy_runs_every_panel_of_it_says_so(path: Path) -> None:
    of_proxy = [
        panel
        for panel in panels_of(loaded(path))
        if all("joulebench_proxy_" in target["expr"] or "joulebench-proxy" in target["expr"] for target in panel["targets"])
    ]
    of_proxy = [panel for panel in of_proxy if panel["title"] != "Unreachable"]
    assert bool(of_proxy) == (path.stem in ("llm-live", "llm-task"))
    for panel in of_proxy:
        assert panel["fieldConfig"]["defaults"]["noValue"].startswith("No data: no proxy"), panel["title"]
