"""The inventory of an Ollama server, parsed into frozen records.

GET /api/version, /api/ps and /api/tags each time, and POST /api/show once for each model that was loaded. None of them loads a
model or keeps one loaded. A field that is missing, of another type or out of range is None: newer and older servers differ in
fields, and an inventory with a gap is worth more than none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import requests

from joulebench.clients.session import open_session
from joulebench.clock import parse_iso_time
from joulebench.errors import OllamaError
from joulebench.ollama.kv_cache import CacheLayout, CacheSettings, layout_of
from joulebench.settings import DEFAULT_OLLAMA_URL, Url
from joulebench.units import Bytes, Ratio, Seconds

log = logging.getLogger(__name__)


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

    ``timeout`` bounds the wait for a connection and for each piece of an answer, in seconds.
    """

    def __init__(self, url: str, timeout: float = 2.0, cache: CacheSettings | None = None) -> None:
        self._url = Url.parse(url, "--ollama.url", DEFAULT_OLLAMA_URL)
        self._timeout = timeout
        self._cache = cache or CacheSettings()
        self._layouts: dict[str, CacheLayout | None] = {}
        self._session = open_session(self._url)

    def inventory(self) -> OllamaInventory:
        """Raises OllamaError when the server does not answer all three, or answers something that is not JSON."""
        version = self._get("/api/version")
        running = self._get("/api/ps")
        tags = _items(self._get("/api/tags"))
        loaded = _loaded(_items(running))
        return OllamaInventory(
            version=_text(version.get("version")) or None if version is not None else None,
            loaded=None if loaded is None else self._with_caches(loaded),
            available=None if tags is None else tuple(_name(item) for item in tags),
        )

    def close(self) -> None:
        self._session.close()

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
        try:
            answer = self._session.request(method, self._url.base + path, json=body, timeout=self._timeout, allow_redirects=False)
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise OllamaError(f"{method} {path}: HTTP {answer.status_code}")
            body_json = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise OllamaError(f"{method} {path}: {_root_cause(error)}") from error
        if not isinstance(body_json, Mapping):
            raise OllamaError(f"{method} {path}: a JSON object was expected, got {type(body_json).__name__}")
        return body_json


def unix_time(text: object) -> Seconds | None:
    """RFC 3339 with any offset and up to nanoseconds as unix seconds; None for anything else and for Go's zero time."""
    moment = parse_iso_time(text) if isinstance(text, str) else None
    if moment is None or moment.tzinfo is None or moment.year == 1:
        return None
    return Seconds(moment.timestamp())


def _root_cause(error: BaseException) -> BaseException:
    """Returns the first error, such as a refused connection; the errors that requests wraps around it say no more."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _loaded(items: Sequence[Any] | None) -> tuple[LoadedModel, ...] | None:
    if items is None:
        return None
    # Keyed by name: two series of one name would spoil the whole scrape.
    models: dict[str, LoadedModel] = {}
    for item in items:
        if not isinstance(item, Mapping):
            continue
        name = _name(item)
        if name:
            models[name] = _model(name, item)
    return tuple(models.values())


def _name(item: object) -> str:
    """Empty for an entry without one: it still counts as a model on disk."""
    return (_text(item.get("name")) or _text(item.get("model"))) if isinstance(item, Mapping) else ""


def _model(name: str, item: Mapping[str, Any]) -> LoadedModel:
    details_field = item.get("details")
    details: Mapping[str, Any] = details_field if isinstance(details_field, Mapping) else {}
    size, size_vram, context = (_amount(item.get(key)) for key in ("size", "size_vram", "context_length"))
    return LoadedModel(
        name=name,
        digest=_text(item.get("digest")),
        family=_text(details.get("family")),
        parameter_size=_text(details.get("parameter_size")),
        quantization=_text(details.get("quantization_level")),
        size=None if size is None else Bytes(size),
        size_vram=None if size_vram is None else Bytes(size_vram),
        context_length=None if not context else int(context),
        expires_at=unix_time(item.get("expires_at")),
    )


def _items(body: Mapping[str, Any] | None) -> Sequence[Any] | None:
    """``models`` of an answer. Go writes an empty list as null, so null means that none is loaded; a missing key is unknown."""
    if body is None or "models" not in body:
        return None
    models = body["models"]
    if models is None:
        return ()
    return models if isinstance(models, list) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)
