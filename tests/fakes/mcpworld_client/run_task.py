"""A runner of one task, as the client has one: ``run_task.py OUT TASK_ID success|failure|no_verdict|crash``."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
Event = importlib.import_module("evaluator.core.events").AgentEvent
Collector = importlib.import_module("evaluator.core.result_collector").ResultCollector


def main(out: str, task_id: str, ending: str) -> int:
    collector = Collector(out)
    pause = threading.Event().wait
    config = {"task_id": task_id[4:6], "task_name": task_id, "application_info": {"name": "vscode"}, "total_key_steps": 1}
    start = collector.start_session(task_id, config)
    collector.record_event(task_id, Event.TASK_START, {"timestamp": start})
    collector.record_event(task_id, Event.TOOLS_INITIALIZED, {"tool_names": ["computer"]})
    for turn in range(2):
        collector.record_event(task_id, Event.LLM_QUERY_START, {"timestamp": time.time(), "model_name": "qwen3-vl:8b"})
        pause(0.15)
        collector.record_event(task_id, Event.LLM_FIRST_TOKEN_RECEIVED, {"timestamp": time.time()})
        tokens = {"prompt_tokens": 100 + turn, "completion_tokens": 20, "cost": None}
        collector.record_event(
            task_id, Event.LLM_QUERY_END, {"timestamp": time.time(), "status": "success", "error": None, **tokens}
        )
        tool = {"tool_name": "computer", "args": {"action": "click"}, "confidence": 0.75}
        collector.record_event(task_id, Event.TOOL_CALL_START, {"timestamp": time.time(), **tool})
        pause(0.05)
        if ending == "crash":
            raise RuntimeError("the agent crashed")
        done = {
            "tool_name": "computer",
            "success": turn == 0,
            "error": None if turn == 0 else "missed",
            "result": "[Screenshot Taken]",
        }
        collector.record_event(task_id, Event.TOOL_CALL_END, {"timestamp": time.time(), **done})
    if ending == "no_verdict":
        pause(1.5)
        collector.record_event(task_id, Event.TASK_END, {"status": "stopped", "reason": "Evaluator shutdown timeout"})
    else:
        collector.record_event(task_id, Event.KEY_STEP_COMPLETED, {"step_index": 1, "step_name": "opened"})
        pause(0.1)
        collector.record_event(task_id, Event.TASK_END, {"status": ending, "reason": "handler said so"})
        pause(0.1)
        collector.record_event(task_id, Event.TASK_END, {"status": "stopped", "reason": "Evaluator stopped"})
    collector.end_session(task_id)
    print(collector.save_results(task_id))  # noqa: T201
    return 3 if ending == "failure" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
