"""Reads a client's request as far as the proxy needs it: run, task and target of the URL, and what is measured of the body.

    /run/RUN/task/TASK/v1/chat/completions     and  /run/RUN/v1/...  go upstream as  /v1/chat/completions
    X-Joulebench-Run, X-Joulebench-Task        name the same without a prefix, and are not passed on

A benchmark needs to change only its base URL. Everything here comes from a client: names are bounded by ``label_text``, sizes
and depths are limited, and the URL for upstream is built from parts, so that scheme, host and port are always the upstream's.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
from yarl import URL

from joulebench.llm.readers import Api
from joulebench.metrics.label_text import label_text
from joulebench.parsing import Json, as_dict, as_list, as_text, load_json
from joulebench.units import Seconds

RUN_HEADER = "X-Joulebench-Run"
TASK_HEADER = "X-Joulebench-Task"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
MAX_TOOLS = 512
"""Tools of a request whose calls are judged; more are passed on and their calls counted as unchecked."""
MAX_TOOLS_BYTES = 256 * 1024
MAX_TASK_FILE_BYTES = 4096
MAX_SMALL_BODY = 1024 * 1024
"""Bytes of a request body that may be parsed as a whole; a larger one is only scanned for the members that are read."""

_PREFIX = re.compile(r"/run/([^/?#]+)(?:/task/([^/?#]+))?(?=[/?#]|$)")
_NOT_IN_TARGET = re.compile(r"[\x00-\x20\x7f#\\]")

API_PATHS = {
    "/chat/completions": Api.OPENAI_CHAT,
    "/v1/completions": Api.OPENAI_TEXT,
    "/api/chat": Api.OLLAMA_CHAT,
    "/api/generate": Api.OLLAMA_TEXT,
    "/v1/responses": Api.RESPONSES,
    "/v1/messages": Api.MESSAGES,
    "/v1/embeddings": Api.EMBEDDING,
    "/api/embed": Api.EMBEDDING,
    "/api/embeddings": Api.EMBEDDING,
}
"""Metered APIs by the end of the path; requests to any other path pass as bytes."""
_API_ENDINGS = tuple(API_PATHS)


class BadRequest(Exception):
    """A request that is not passed on. ``status``: of the answer to the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """``run`` and ``task`` are label values, empty where the client named none. ``target``: path and query for upstream."""

    run: str
    task: str
    target: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(slots=True, eq=False)
class ProxiedTask:
    """A task of a proxied run. ``start`` and ``end``: unix times of the first request's begin and the latest end so far.

    ``calls`` and ``tools``: numbers given so far. ``in_flight``: requests that run.
    """

    run_id: str
    task_id: str
    start: Seconds
    end: Seconds | None = None
    calls: int = 0
    tools: int = 0
    in_flight: int = 0


class RequestTicket(NamedTuple):
    """A request in the journal of its run: its task, its number there, and the unix time at which it began."""

    task: ProxiedTask
    call: int
    start: Seconds


class TaskFile:
    """Names the task of requests that name none: a file that the benchmark's launcher keeps to the task that runs.

    The file holds ``{"run_id": RUN, "task_id": TASK}``; one that is missing, empty, of another form or no regular file names no
    task. It is for clients that run one task at a time and have one base URL for all of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._names = ("", "")

    def name(self, target: RequestTarget) -> RequestTarget:
        """Returns the target with the names of the file, or unchanged where the client named a run or a task."""
        if target.run or target.task:
            return target
        run, task = self._read()
        return replace(target, run=run, task=task) if run else target

    def _read(self) -> tuple[str, str]:
        try:
            file_status = self._path.stat()
            version = (file_status.st_ino, file_status.st_mtime_ns, file_status.st_size)
            if version != self._version:
                self._names = self._parse() if stat.S_ISREG(file_status.st_mode) else ("", "")
                self._version = version
        except (OSError, ValueError):
            self._names, self._version = ("", ""), None
        return self._names

    def _parse(self) -> tuple[str, str]:
        # Opening a pipe would wait for its writer, and every request with it.
        with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            names = as_dict(load_json(file.read(MAX_TASK_FILE_BYTES)))
        return bounded_name(as_text(names.get("run_id"))), bounded_name(as_text(names.get("task_id")))


def parse_target(method: str, raw_target: str, headers: Mapping[str, str]) -> RequestTarget:
    """Returns run, task and target of a request line. A prefix of the path outweighs the headers.

    Raises BadRequest unless method and target are those of a request to an origin server (RFC 9112, 3.2.1): a proxy that takes
    CONNECT or an absolute URL can be sent elsewhere.
    """
    if method not in METHODS:
        raise BadRequest(f"the method {method[:20]!r} is not passed on; use one of {', '.join(sorted(METHODS))}")
    if not raw_target.startswith("/"):
        raise BadRequest("the request target has to be a path; set the base URL of the client to the proxy's address")
    if _NOT_IN_TARGET.search(raw_target):
        raise BadRequest("the request target holds a character that a URL may not have; escape it")
    target = raw_target
    run, task = headers.get(RUN_HEADER, ""), headers.get(TASK_HEADER, "")
    prefix = _PREFIX.match(target)
    if prefix:
        run, task = unquote(prefix.group(1)), unquote(prefix.group(2) or "") or task
        target = target[prefix.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    return RequestTarget(bounded_name(run), bounded_name(task), target)


@lru_cache(1024)
def bounded_name(value: str) -> str:
    """Returns a name from a client as a label value: printable, valid Unicode, of limited length."""
    return label_text(value)


def metered_api(method: str, path: str) -> Api | None:
    """Returns the API that a request uses; None where it is not metered."""
    if method != "POST" or not path.endswith(_API_ENDINGS):
        return None
    return next(api for ending, api in API_PATHS.items() if path.endswith(ending))


class Upstream:
    """The model server's address. Credentials in its URL become a header and appear nowhere else."""

    def __init__(self, url: str) -> None:
        parsed = URL(url)
        self.authorization: str | None = None
        if parsed.user is not None:
            credentials = f"{parsed.user}:{parsed.password or ''}".encode()
            self.authorization = f"Basic {base64.b64encode(credentials).decode('ascii')}"
        self._base = parsed.with_user(None).with_query(None).with_fragment(None)
        self.shown = str(self._base).rstrip("/")
        self.host_header = self._base.raw_authority
        self._cached_url = lru_cache(256)(self._build_url)

    def url_for(self, target: str) -> URL:
        """Returns the URL of a target, whose path and query stay as the client wrote them."""
        # yarl keeps what it derives from a URL, and a benchmark requests few.
        return self._cached_url(target) if len(target) < 256 else self._build_url(target)

    def _build_url(self, target: str) -> URL:
        path, _, query = target.partition("?")
        url = URL.build(
            scheme=self._base.scheme,
            host=self._base.raw_host or "",
            port=self._base.explicit_port,
            path=self._base.raw_path.rstrip("/") + path,
            query_string=query,
            encoded=True,
        )
        if url.origin() != self._base.origin():
            raise BadRequest("the request target would lead to another server")
        return url


class _BodyMembers(msgspec.Struct):
    """The members of a request that are read; all others are skipped without being built."""

    model: msgspec.Raw = msgspec.Raw(b"")
    stream: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    stream_options: msgspec.Raw = msgspec.Raw(b"")
    logprobs: msgspec.Raw = msgspec.Raw(b"")
    top_logprobs: msgspec.Raw = msgspec.Raw(b"")
    echo: msgspec.Raw = msgspec.Raw(b"")


_DECODER = msgspec.json.Decoder(_BodyMembers)


@dataclass(frozen=True)
class MeteredRequest:
    """``tools_json``: the declared tools as the client wrote them; None where they are longer than is read.

    ``members``: names of those members that decide about additions. ``stream_options``: parsed. ``echo``: the text of the reply
    may repeat the prompt.
    """

    api: Api
    model: str = ""
    stream: bool = False
    tools_json: bytes | None = b""
    members: frozenset[str] = frozenset()
    stream_options: object = None
    echo: bool = False

    @cached_property
    def tools(self) -> Mapping[str, Json] | None:
        """JSON schema of the arguments by name of the declared tool; None where there are more than are read.

        Parsed when it is first asked for, which for most requests is after their reply.
        """
        return None if self.tools_json is None else _declared_tools(self.tools_json)


def parse_request(api: Api, body: bytes) -> MeteredRequest | None:
    """Returns what is read of a request body; None for a body that is no JSON object."""
    members = _raw_members(body)
    if members is None:
        return None
    model = _parse_small(members.get("model"))
    stream = members.get("stream", b"").strip()
    tools = members.get("tools", b"")
    # Ollama streams unless the request says no, the others only where it says yes.
    is_stream = stream != b"false" if api.is_ollama else stream == b"true"
    return MeteredRequest(
        api,
        bounded_name(as_text(model)),
        is_stream,
        tools if len(tools) <= MAX_TOOLS_BYTES else None,
        frozenset(members),
        _parse_small(members.get("stream_options")),
        members.get("echo", b"").strip() not in {b"", b"false", b"null", b"0"},
    )


def _raw_members(body: bytes) -> dict[str, bytes] | None:
    try:
        decoded = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _parsed_members(body)
    found = {name: bytes(getattr(decoded, name)) for name in _BodyMembers.__struct_fields__}
    return {name: raw for name, raw in found.items() if raw}


def _parsed_members(body: bytes) -> dict[str, bytes] | None:
    """Reads what is JSON for Python alone: UTF-16, NaN, half of a surrogate pair."""
    if len(body) > MAX_SMALL_BODY:
        return None
    try:
        value = json.loads(body)
        if not isinstance(value, dict):
            return None
        return {name: json.dumps(value[name]).encode() for name in _BodyMembers.__struct_fields__ if name in value}
    except (ValueError, RecursionError):
        return None


def _parse_small(raw: bytes | None) -> object:
    if not raw or len(raw) > MAX_SMALL_BODY:
        return None
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value


def _declared_tools(raw: bytes) -> dict[str, Json] | None:
    tools = dict(filter(None, map(_declared_tool, as_list(_parse_small(raw)))))
    return tools if len(tools) <= MAX_TOOLS else None


def _declared_tool(tool: object) -> tuple[str, Json] | None:
    """Returns name and schema: under ``function`` for completions, flat for responses, with an input schema for messages."""
    flat = as_dict(tool)
    function = as_dict(flat.get("function")) or flat
    name = as_text(function.get("name"))
    return (name, as_dict(function.get("parameters") or function.get("input_schema"))) if name else None
