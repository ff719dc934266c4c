"""Names from clients are bounded wherever they become labels: one bad name never spoils /metrics."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.hostile.attacked_proxy import CHAT, attack, proxy_of_hostile_upstream

NAMES = [
    "half a pair \\ud83d",
    "\\udc00",
    "\\u0000",
    "line\\nbreak \\u2028",
    'quote \\" and \\\\',
    "right-to-left \\u202e",
    "x" * 1_000_000,
    "\\ud83d\\ude00" * 100_000,
    "",
]


def test_names_of_models_runs_and_tasks_are_bounded(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        numbers = iter(range(10_000))

        def name() -> None:
            for text in NAMES:
                body = f'{{"model":"{next(numbers)}{text}","messages":[]}}'
                headers = {"X-Joulebench-Run": "r" * 5000, "X-Joulebench-Task": f"t{next(numbers)}"}
                got = requests.post(proxy.url + CHAT, data=body.encode(), headers=headers, timeout=10)
                assert got.status_code == 200
                long_path = f"{proxy.url}/run/{'%ED%A0%BD' * 100}/task/{next(numbers)}{CHAT}"
                assert requests.post(long_path, json={"model": "m"}, timeout=10).status_code == 200

        attack(proxy, "odd and long names", name)
        text, _ = proxy.scrape()
        assert len(text) < 2_000_000
        assert max(map(len, text.splitlines())) < 1500
        assert proxy.stop() < 5.0


def test_model_names_of_other_types_count_as_no_name(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        for model in (None, 1, ["m"], {"m": 1}, True):
            assert requests.post(proxy.url + CHAT, data=json.dumps({"model": model}), timeout=5).status_code == 200
        assert proxy.stop() < 5.0


def test_a_long_list_of_names_in_a_scrape_is_refused(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        query = "&".join(["name[]=joulebench_proxy_requests_total"] * 101)
        assert requests.get(f"{proxy.metrics_url}/metrics?{query}", timeout=5).status_code == 400
        few = requests.get(f"{proxy.metrics_url}/metrics?name[]=joulebench_loop_errors_total", timeout=5)
        assert few.status_code == 200
        assert "joulebench_loop_errors_total" in few.text
        assert "process_cpu" not in few.text
