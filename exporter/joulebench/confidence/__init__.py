"""How sure the model was of a tool call: pure functions over rows and text of a reply, for push, bench and proxy alike.

The package itself can be called: ``joulebench.confidence(response, tools)`` gives the confidence of each tool call in a
response of a client library, see ``joulebench.response_confidence``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, response: object, tools: Iterable[object]) -> list[Any]:
        import joulebench

        return joulebench.response_confidence(response, tools)


sys.modules[__name__].__class__ = _CallableRoom
