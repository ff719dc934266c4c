"""The evaluator's event names, as its files have them."""

from __future__ import annotations

from enum import Enum, auto


class AgentEvent(Enum):
    TASK_START = auto()
    TASK_END = auto()
    TOOLS_INITIALIZED = auto()
    LLM_QUERY_START = auto()
    LLM_FIRST_TOKEN_RECEIVED = auto()
    LLM_QUERY_END = auto()
    TOOL_CALL_START = auto()
    TOOL_CALL_END = auto()
    KEY_STEP_COMPLETED = auto()
    APP_SPECIFIC_EVENT = auto()
    AGENT_ERROR_OCCURRED = auto()
