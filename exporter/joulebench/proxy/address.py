"""Whose request it is and where it goes: run and task from headers or from a prefix of the path, which is then taken away.

    /run/RUN/task/TASK/v1/chat/completions     and  /run/RUN/v1/...  go upstream as  /v1/chat/completions
    X-Joulebench-Run, X-Joulebench-Task        say the same without a prefix, and are not passed on

A benchmark needs to change only its base URL. The path is never decoded on its way: what a client escaped stays escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from joulebench.metrics.label_text import label_text

RUN_HEADER = "X-Joulebench-Run"
TASK_HEADER = "X-Joulebench-Task"

_PREFIX = re.compile(r"/run/([^/?#]+)(?:/task/([^/?#]+))?(?=[/?#]|$)")


@dataclass(frozen=True, slots=True)
class Address:
    """``run`` and ``task`` are label values, empty where the client named none. ``target``: path and query for upstream."""

    run: str
    task: str
    target: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def address_of(raw_target: str, headers: Mapping[str, str]) -> Address:
    """A prefix outweighs the headers. ``raw_target`` as it stands in the request line; an absolute URL loses its host."""
    target = raw_target
    if not target.startswith("/"):
        parts = urlsplit(target)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    run, task = headers.get(RUN_HEADER, ""), headers.get(TASK_HEADER, "")
    prefix = _PREFIX.match(target)
    if prefix:
        run, task = unquote(prefix.group(1)), unquote(prefix.group(2) or "") or task
        target = target[prefix.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    return Address(_label(run), _label(task), target)


@lru_cache(1024)
def _label(value: str) -> str:
    return label_text(value)
