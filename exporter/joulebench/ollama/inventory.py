"""The inventory of an Ollama server, parsed into frozen records.

GET /api/version, /api/ps and /api/tags each time, and POST /api/show once for each model that was loaded. None of them loads a
model or keeps one loaded. A field that is missing, of another type or out of range is None: newer and older servers differ in
fields, and an inventory with a gap is worth more than none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import joulebench.clients.session  # noqa: F401 - with the start of the exporter, not with its first poll
from joulebench.clients.connection import HttpClient, RequestFailed
from joulebench.clock import parse_iso_time
from joulebench.errors import OllamaError
from joulebench.metrics.label_text import label_text
from joulebench.ollama.kv_cache import CacheLayout, CacheSettings, layout_of
from joulebench.parsing import as_dict, as_float, as_text
from joulebench.settings import DEFAULT_OLLAMA_URL, Url
from joulebench.units import Bytes, Ratio, Seconds

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1 << 24
"""A list of 1,000 models has 0.5 MB; the licence and template of a model less."""
MAX_ANSWER_SECONDS = 5.0
MAX_MODELS = 5_000
"""Each is some series; a list of more counts as unknown."""
MAX_CONTEXT_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One entry of /api/ps. ``size`` is CPU and GPU memory together; ``expires_at`` is unix time; ``kv_cache`` is estimated."""

    name: str
    digest: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    size: Bytes | None = None
    size_vram: Bytes | None = None
    context_length: int | None = None
    expires_at: Seconds | None = None
    kv_cache: Bytes | None = None

    @property
    def offload(self) -> Ratio | None:
        """Share of the model in GPU memory; None where the sizes do not say."""
        if not self.size or self.size_vram is None or self.size_vram > self.size:
            return None
        return Ratio(self.size_vram / self.size)


@dataclass(frozen=True, slots=True)
class OllamaInventory:
    """``available`` are the names on disk. None where the server lacks the endpoint or its answer has no list."""

    version: str | None
    loaded: tuple[LoadedModel, ...] | None
    available: tuple[str, ...] | None


class OllamaApi:
    """One keep-alive session to one server; used by one thread at a time.

    ``timeout``: seconds to wait for a connection, and for each piece of an answer. What the server answers is bounded in
    size and time, and its names are made to fit labels.
    """

    def __init__(self, url: str, timeout: float = 2.0, cache: CacheSettings | None = None) -> None:
        self._url = Url.parse(url, "--ollama.url", DEFAULT_OLLAMA_URL)
        self._cache = cache or CacheSettings()
        self._layouts: dict[str, CacheLayout | None] = {}
        self._client = HttpClient(self._url, timeout, max_bytes=MAX_ANSWER_BYTES, max_seconds=MAX_ANSWER_SECONDS)

    def inventory(self) -> OllamaInventory:
        """Raises OllamaError when the server does not answer all three, or answers something that is not JSON."""
        version = self._get("/api/version")
        running = self._get("/api/ps")
        tags = _items(self._get("/api/tags"))
        loaded = _loaded(_items(running))
        return OllamaInventory(
            version=_label(version.get("version")) or None if version is not None else None,
            loaded=None if loaded is None else self._with_caches(loaded),
            available=None if tags is None else tuple(_name(as_dict(item)) for item in tags),
        )

    def close(self) -> None:
        self._client.close()

    def _with_caches(self, loaded: Sequence[LoadedModel]) -> tuple[LoadedModel, ...]:
        keys = {model.name: f"{model.name} {model.digest}" for model in loaded}
        self._layouts = {key: layout for key, layout in self._layouts.items() if key in keys.values()}
        return tuple(self._with_cache(model, keys[model.name]) for model in loaded)

    def _with_cache(self, model: LoadedModel, key: str) -> LoadedModel:
        """Adds the KV cache's size. A model's metadata is asked for once; where that fails, again at the next poll."""
        if model.context_length is None:
            return model
        if key not in self._layouts:
            try:
                shown = self._ask("POST", "/api/show", {"model": model.name})
            except OllamaError as error:
                log.debug("%s: %s", model.name, error)
                return model
            info = shown.get("model_info") if shown is not None else None
            self._layouts[key] = layout_of(info) if isinstance(info, Mapping) else None
        layout = self._layouts[key]
        return model if layout is None else replace(model, kv_cache=layout.bytes(model.context_length, self._cache))

    def _get(self, path: str) -> Mapping[str, Any] | None:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, body: object = None) -> Mapping[str, Any] | None:
        """The JSON object at ``path``; None where this server has no such endpoint."""
        encoded = None if body is None else json.dumps(body).encode()
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            answer = self._client.request(method, path, body=encoded, headers=headers)
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise OllamaError(f"{method} {path}: HTTP {answer.status}")
            body_json = answer.json()
        except (RequestFailed, ValueError) as error:
            raise OllamaError(f"{method} {path}: {error}") from error
        if not isinstance(body_json, Mapping):
            raise OllamaError(f"{method} {path}: a JSON object was expected, got {type(body_json).__name__}")
        return body_json


def unix_time(text: object) -> Seconds | None:
    """RFC 3339 with any offset and up to nanoseconds as unix seconds; None for anything else and for Go's zero time."""
    moment = parse_iso_time(text) if isinstance(text, str) else None
    if moment is None or moment.tzinfo is None or moment.year == 1:
        return None
    return Seconds(moment.timestamp())


def _loaded(items: Sequence[Any] | None) -> tuple[LoadedModel, ...] | None:
    if items is None:
        return None
    # Keyed by name: two series of one name would spoil the whole scrape.
    models: dict[str, LoadedModel] = {}
    for item in items:
        fields = as_dict(item)
        if name := _name(fields):
            models[name] = _model(name, fields)
    return tuple(models.values())


def _name(item: Mapping[str, object]) -> str:
    """Empty for an entry without one: it still counts as a model on disk."""
    return _label(item.get("name")) or _label(item.get("model"))


def _model(name: str, item: Mapping[str, object]) -> LoadedModel:
    details = as_dict(item.get("details"))
    size, size_vram, context = (_amount(item.get(key)) for key in ("size", "size_vram", "context_length"))
    return LoadedModel(
        name=name,
        digest=_label(item.get("digest")),
        family=_label(details.get("family")),
        parameter_size=_label(details.get("parameter_size")),
        quantization=_label(details.get("quantization_level")),
        size=None if size is None else Bytes(size),
        size_vram=None if size_vram is None else Bytes(size_vram),
        context_length=int(context) if context and context <= MAX_CONTEXT_TOKENS else None,
        expires_at=unix_time(item.get("expires_at")),
    )


def _items(body: Mapping[str, Any] | None) -> Sequence[Any] | None:
    """``models`` of an answer. Go writes an empty list as null, so null means that none is loaded; a missing key is unknown."""
    if body is None or "models" not in body:
        return None
    models = body["models"]
    if models is None:
        return ()
    return models if isinstance(models, list) and len(models) <= MAX_MODELS else None


def _label(value: object) -> str:
    return label_text(as_text(value))


def _amount(value: object) -> float | None:
    number = as_float(value)
    return number if number is not None and number >= 0 else None
