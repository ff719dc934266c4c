"""A link names one task and no other, whatever its id: the key is a regular expression that an address carries unharmed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml
from scripts.dashboards.task_key import keyed, task_variable

KEYS = {
    "read-missing": r"read-missing",
    "read-missing#2": r"read-missing\x232",
    "read-missing.2": r"read-missing\x2e2",
    "read-missing-2": r"read-missing-2",
    "read_missing_2": r"read_missing_2",
    "read missing 2": r"read missing 2",
    "a&b=c?d": r"a\x26b=c\x3fd",
    "100%+x": r"100\x25\x2bx",
    "v1.2#2": r"v1\x2e2\x232",
    "f(x)[0]{1}": r"f\x28x\x29\x5b0\x5d\x7b1\x7d",
    'say "a|b" $^*\'': r"say .a\x7cb\x22 \x24\x5e\x2a\x27",
    "back\\slash": r"back\x5cslash",
    "größe/任务": r"größe/任务",
    "a#1#2#3#4": r"a.1.2\x233\x234",
}
"""Written down by hand. Two quotes, and four of #, are more than are looked for: a dot stands for the first ones."""


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def test_every_id_has_the_key_written_down_here(promtool: Path, tmp_path: Path) -> None:
    series = [{"series": f"task{{task_id={quoted(task)}}}", "values": "1x3"} for task in KEYS]
    wanted = [{"labels": f"task{{task_id={quoted(task)}, key={quoted(key)}}}", "value": 1} for task, key in KEYS.items()]
    case = {"expr": keyed("task"), "eval_time": "2m", "exp_samples": wanted}
    path = tmp_path / "key.yml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [{"input_series": series, "promql_expr_test": [case]}]}))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_finds_its_own_task_alone() -> None:
    for task, key in KEYS.items():
        assert [other for other in KEYS if re.fullmatch(key, other)] == [task], key


def test_an_address_carries_every_key_unharmed() -> None:
    for key in KEYS.values():
        assert not set('#&+%"') & set(key), key


def test_the_variable_takes_id_and_key_from_a_series_as_grafana_writes_it() -> None:
    """Grafana writes the series that query_result finds as text, and takes the named groups of all matches."""
    pattern = str(task_variable()["regex"])
    assert pattern.startswith("/")
    assert pattern.endswith("/g")
    for task, key in KEYS.items():
        if '"' in task:
            continue
        written = f'{{key="{key}",task_id="{task}"}} 1 1795504300000'
        groups = [match.groupdict() for match in re.finditer(pattern[1:-2].replace("(?<", "(?P<"), written)]
        assert next(group["value"] for group in groups if group["value"]) == key
        assert next(group["text"] for group in groups if group["text"]) == task
