"""Joulebench: what a task of a self-hosted LLM costs in joules, and how sure the model was of each tool call.

The public face is ``Run``, ``instrument()`` for the calls of client libraries without a line of code at each, and
``confidence(response, tools)`` for the tool calls of a single response; they are loaded on first use, so that the exporter starts
without the benchmark's imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulebench.integrations.instrument import instrument
    from joulebench.push.responses import response_confidence
    from joulebench.push.run import Run

__version__ = "0.1.0"
LOADED_WITH_RUN = ("joulebench.clients.session", "joulebench.metrics.families", "joulebench.push.responses")
"""What ``Run`` loads when it needs it: here at once, so that nothing is loaded while a call is timed."""
__all__ = ["Run", "__version__", "instrument", "response_confidence"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from joulebench.push.run import Run

        for room in LOADED_WITH_RUN:
            importlib.import_module(room)
        return Run
    if name == "instrument":
        from joulebench.integrations.instrument import instrument

        return instrument
    if name == "response_confidence":
        from joulebench.push.responses import response_confidence

        return response_confidence
    if name == "confidence":
        # A room that can be called: see its ``__call__``.
        return importlib.import_module("joulebench.confidence")
    raise AttributeError(f"module 'joulebench' has no attribute {name!r}")
