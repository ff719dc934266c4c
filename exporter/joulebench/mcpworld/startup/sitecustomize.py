"""Runs as every Python starts that has this directory in its PYTHONPATH, as under ``joulebench run``: attaches the live hook to
the evaluator's collector once it is imported, and records the clients of openai, ollama and litellm once they are.

Until then nothing of joulebench is loaded, so a Python that has nothing to do with them pays a finder and no more. It
must run on the client's own interpreter, which may be older than ours and may have none of our packages.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

COLLECTOR_MODULE, COLLECTOR_CLASS = "result_collector", "ResultCollector"
CLIENT_MODULES = ("openai._base_client", "ollama._client", "litellm.main")
"""Those of ``joulebench.integrations.instrument``, which may not be imported here."""
OUR_PATHS, INSTRUMENT = "JOULEBENCH_PYTHONPATH", "JOULEBENCH_INSTRUMENT"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.rpartition(".")[2] != COLLECTOR_MODULE and fullname not in CLIENT_MODULES:
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
        try:
            if module.__name__ in CLIENT_MODULES:
                if os.environ.get(INSTRUMENT, "1") == "1":
                    _ours("joulebench.integrations.instrument").wrap_client(module)
            elif collector is not None:
                _ours("joulebench.mcpworld.hook").attach(collector)
        except Exception as error:  # the benchmark comes first, whatever is wrong with us
            print(  # noqa: T201
                f"joulebench run: not attached to {module.__name__}, the benchmark goes on without it: {error!r}", file=sys.stderr
            )


def _ours(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        # Behind the client's own packages, so that it gets none of ours where it has one.
        # Three up from here is what holds joulebench; the launcher knows where the packages are that it needs, too.
        ours = os.environ.get(OUR_PATHS) or os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
        sys.path.extend(path for path in ours.split(os.pathsep) if path and path not in sys.path)
        return importlib.import_module(name)


def _run_the_one_we_hide() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _Finder())
_run_the_one_we_hide()
