"""A runner of one task, as the client has one: ``run_task.py OUT TASK_ID ENDING``.

``ENDING``: success, failure, no_verdict, crash, late_work (calls after the verdict), open_tool (a tool call without an end) or
two_verdicts.
"""

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

    def call(turn: int) -> None:
        collector.record_event(task_id, Event.LLM_QUERY_START, {"timestamp": time.time(), "model_name": "qwen3-vl:8b"})
        pause(0.15)
        collector.record_event(task_id, Event.LLM_FIRST_TOKEN_RECEIVED, {"timestamp": time.time()})
        tokens = {"prompt_tokens": 100 + turn, "completion_tokens": 20, "cost": None}
        collector.record_event(
            task_id, Event.LLM_QUERY_END, {"timestamp": time.time(), "status": "success", "error": None, **tokens}
        )

    for turn in range(2):
        call(turn)
        tool = {"tool_name": "computer", "args": {"action": "click"}, "confidence": 0.75}
        collector.record_event(task_id, Event.TOOL_CALL_START, {"timestamp": time.time(), **tool})
        pause(0.05)
        if ending == "crash":
            raise RuntimeError("the agent crashed")
        if ending == "open_tool" and turn == 1:
            break
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
    elif ending == "late_work":
        collector.record_event(task_id, Event.TASK_END, {"status": "success", "reason": "handler said so"})
        call(2)
        call(3)
    elif ending == "two_verdicts":
        collector.record_event(task_id, Event.TASK_END, {"status": "failure", "reason": "not yet"})
        pause(0.3)
        collector.record_event(task_id, Event.TASK_END, {"status": "success", "reason": "now"})
    else:
        ending = "failure" if ending == "open_tool" else ending
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
