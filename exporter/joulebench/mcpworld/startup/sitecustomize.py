"""Runs as every Python under ``joulebench run`` starts: attaches the live hook to the evaluator's collector once it is imported.

Until then nothing of joulebench is loaded, so a Python that has nothing to do with the evaluator pays a finder and no more. It
must run on the client's own interpreter, which may be older than ours and may have none of our packages.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

COLLECTOR_MODULE, COLLECTOR_CLASS = "result_collector", "ResultCollector"
OUR_PATHS = "JOULEBENCH_PYTHONPATH"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.rpartition(".")[2] != COLLECTOR_MODULE:
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(fullname, path, target)
            if found is not None and found.loader is not None:
                found.loader = _Loader(found.loader)
                return found
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: Any) -> Any:
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._real.exec_module(module)
        collector = getattr(module, COLLECTOR_CLASS, None)
        if collector is not None:
            _attach(collector)


def _attach(collector: Any) -> None:
    try:
        _ours().attach(collector)
    except Exception as error:  # the benchmark comes first, whatever is wrong with us
        print(f"joulebench run: not attached, the benchmark goes on without it: {error!r}", file=sys.stderr)  # noqa: T201


def _ours() -> Any:
    try:
        from joulebench.mcpworld import hook
    except ImportError:
        # Behind the client's own packages, so that it gets none of ours where it has one.
        sys.path.extend(path for path in os.environ.get(OUR_PATHS, "").split(os.pathsep) if path and path not in sys.path)
        from joulebench.mcpworld import hook
    return hook


def _run_the_one_we_hide() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _Finder())
_run_the_one_we_hide()
