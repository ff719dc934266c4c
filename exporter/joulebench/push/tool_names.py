"""Which tool a series names: the tools that the benchmark declared, a bounded number of them, and ``other`` for all else.

What the model calls a tool is text of the model: a name that nobody declared never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from joulebench.metrics.label_text import label_text

OTHER = "other"
MAX_TOOLS = 24
"""Of a run. The histogram of one tool has 16 series, in a group that is pushed whole."""
MAX_TOOL_LENGTH = 64


def declared(known: Mapping[str, str], names: Iterable[str]) -> Mapping[str, str]:
    """``known`` (name -> label) and ``names`` too, the first MAX_TOOLS of them."""
    labels = dict(known)
    for name in names:
        if len(labels) >= MAX_TOOLS:
            break
        if name not in labels:
            labels[name] = label_text(name, MAX_TOOL_LENGTH) or OTHER
    return labels


def label_of(known: Mapping[str, str], name: str) -> str:
    return known.get(name, OTHER)
