"""``python -m joulebench.mcpworld.startup``: prints the directory that turns recording on where PYTHONPATH begins with it."""

from __future__ import annotations

from joulebench.mcpworld.startup import __path__

if __name__ == "__main__":
    print(*__path__)
