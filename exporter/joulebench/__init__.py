"""Joulebench: what a task of a self-hosted LLM costs in joules, and how sure the model was of each tool call.

The public face is ``Run``; it is loaded on first use, so that the exporter starts without the benchmark's imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulebench.push.run import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from joulebench.push.run import Run

        return Run
    raise AttributeError(f"module 'joulebench' has no attribute {name!r}")
