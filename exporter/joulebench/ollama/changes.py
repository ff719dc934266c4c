"""Loads and unloads of models, as one inventory after the other shows them.

What happens between two polls is not seen: a model that comes and goes within one, or is loaded again from the same file. The
models of the first inventory were loaded before anyone looked and count as nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from joulebench.ollama.inventory import OllamaInventory


class LoadCounts:
    """``loads`` and ``unloads`` by model since the exporter started; a model on disk that was never loaded has 0."""

    def __init__(self) -> None:
        self._loaded: dict[str, str] | None = None
        self._loads: Counter[str] = Counter()
        self._unloads: Counter[str] = Counter()

    def see(self, inventory: OllamaInventory) -> None:
        """An inventory without a list of loaded models changes nothing."""
        if inventory.loaded is None:
            return
        now = {model.name: model.digest for model in inventory.loaded}
        before, self._loaded = self._loaded, now
        # Sorted: the order in which names are first seen is the order of the series.
        for name in sorted({*now, *(inventory.available or ())} - {""}):
            self._loads[name] += 0
            self._unloads[name] += 0
        if before is None:
            return
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                # Another file under the same name is the end of one model and the begin of the next.
                self._unloads[name] += name in before
                self._loads[name] += name in now

    @property
    def loads(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._loads))

    @property
    def unloads(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._unloads))
