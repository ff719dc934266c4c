"""The interface of the evaluator's collector, made again from its schema: sessions, flat events, a file at the end."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from .events import AgentEvent


class ResultCollector:
    def __init__(self, output_dir: str = "results") -> None:
        self.output_dir = output_dir
        self.results: dict[str, dict[str, Any]] = {}

    def start_session(self, task_id: str, config: dict[str, Any]) -> float:
        now = time.time()
        self.results[task_id] = {
            "metadata": {
                "session_start_iso": datetime.fromtimestamp(now).isoformat(),
                "session_start_unix": now,
                "model_name": os.environ.get("MODEL", "unknown"),
                "infrastructure_tag": os.environ.get("INFRASTRUCTURE_TAG", ""),
                "task_config_at_start": config,
            },
            "raw_events": [],
            "computed_metrics": {},
        }
        return now

    def record_event(self, task_id: str, event_type: AgentEvent, data: dict[str, Any] | None = None) -> None:
        if task_id not in self.results:
            raise KeyError(task_id)
        entry = {"event_type": event_type.name, "timestamp": time.time(), **(data or {})}
        self.results[task_id]["raw_events"].append(entry)

    def end_session(self, task_id: str) -> None:
        metadata, events = self.results[task_id]["metadata"], self.results[task_id]["raw_events"]
        metadata["session_end_unix"] = time.time()
        ends = [event for event in events if event["event_type"] == "TASK_END"]
        last = ends[-1] if ends else {}
        self.results[task_id]["computed_metrics"] = {
            "total_duration_seconds": last["timestamp"] - metadata["session_start_unix"] if last else None,
            "task_completion_status": {"status": last.get("status"), "reason": last.get("reason")},
        }

    def save_results(self, task_id: str) -> str:
        Path(self.output_dir).mkdir(parents=True, exist_ok=True)
        model = self.results[task_id]["metadata"]["model_name"].replace(":", "-").replace("/", "_")
        path = Path(self.output_dir) / f"result_{datetime.now():%Y%m%d_%H%M%S}_{model}_{task_id}.json"
        path.write_text(json.dumps(self.results[task_id], indent=4), encoding="utf-8")
        return str(path)
