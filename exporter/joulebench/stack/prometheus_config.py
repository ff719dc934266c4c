"""The repository's prometheus.yml with other addresses: the native stack scrapes what the containers scrape, the same way.

Jobs are matched by name; a job without an address here is left out, since nothing of it runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from joulebench.errors import UserError


def readdressed(
    config: Mapping[str, Any], targets: Mapping[str, str], alertmanager: str | None, rules: Path | None
) -> dict[str, Any]:
    """``targets``: HOST:PORT by job name. ``rules``: the folder whose ``*.yml`` are loaded, None for no rules."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    known = {str(job["job_name"]) for job in changed["scrape_configs"]}
    unknown = set(targets) - known
    if unknown:
        raise UserError(f"prometheus.yml has no job named {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    jobs = [job for job in changed["scrape_configs"] if job["job_name"] in targets]
    for job in jobs:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    changed["scrape_configs"] = jobs
    changed["rule_files"] = [] if rules is None else [str(rules / "*.yml")]
    changed.pop("alerting", None)
    if alertmanager is not None:
        changed["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return changed


def write_readdressed(
    source: Path, target: Path, targets: Mapping[str, str], alertmanager: str | None, rules: Path | None
) -> None:
    config = yaml.safe_load(source.read_text())
    target.write_text(yaml.safe_dump(readdressed(config, targets, alertmanager, rules), sort_keys=False))
