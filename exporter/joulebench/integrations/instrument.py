"""``joulebench.instrument()`` records every call of the openai, ollama and litellm clients, without a line of code at the call.

The clients are wrapped at the one function that all their requests pass, so that objects and functions which the benchmark made
or imported before count too. What they return, raise and stream is unchanged. A call belongs to the open task of its context; in
a process that opens no ``Run`` to a task of the process. Nothing that goes wrong here reaches the benchmark: it is logged once.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, TypeVar

import wrapt

from joulebench.errors import format_error
from joulebench.integrations.process_task import ProcessTasks
from joulebench.parsing import as_dict, as_list, as_text
from joulebench.push import current
from joulebench.push.call import Call, RequestedTool
from joulebench.push.responses import tool_names
from joulebench.push.task import Task

log = logging.getLogger(__name__)

OPENAI_PATHS = ("/chat/completions", "/completions", "/responses")
OLLAMA_PATHS = ("/api/chat", "/api/generate")
_MARK = "_joulebench_instrumented"

P = ParamSpec("P")
T = TypeVar("T")

_in_client: ContextVar[bool] = ContextVar("joulebench_in_client", default=False)
"""Whether this context is inside a client whose call is recorded: litellm calls the openai client."""


class _Problems:
    """Logs the first thing that went wrong in recording."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: set[str] = set()

    def log_once(self, what: str, error: BaseException | None = None) -> None:
        with self._lock:
            is_new = what not in self._logged
            self._logged.add(what)
        if is_new:
            log.warning("joulebench: %s; the benchmark goes on, and further such calls are not logged", what, exc_info=error)


class _Options:
    """What ``instrument`` was last called with; clients that are wrapped stay wrapped and ask here."""

    enabled = True
    tools = True


_problems = _Problems()
_processes = ProcessTasks()


def _guarded(function: Callable[P, T]) -> Callable[P, T | None]:
    """``function``, which returns None where it fails and never raises into the benchmark."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _problems.log_once(f"a call could not be recorded ({function.__name__.strip('_')}: {format_error(error)})", error)
            return None

    return guarded


def instrument(enabled: bool = True, *, tools: bool = True) -> None:
    """Records the calls of the openai, ollama and litellm clients from now on, those of packages that are imported later too.

    ``enabled`` False stops it. ``tools``: tool calls that a reply asks for are recorded with their confidence and the outcome
    ``unchecked``, or ``malformed`` and ``undeclared`` where the reply shows it; False for a benchmark that records its tools by
    ``task.tool``. May be called again.
    """
    _Options.enabled, _Options.tools = enabled, tools
    if enabled:
        for name in CLIENT_MODULES:
            wrapt.register_post_import_hook(wrap_client, name)


def wrap_client(module: ModuleType) -> None:
    """Wraps the client in ``module``, one of CLIENT_MODULES, once. Never raises."""
    if getattr(module, _MARK, False):
        return
    try:
        CLIENT_MODULES[module.__name__](module)
        setattr(module, _MARK, True)
    except Exception as error:
        _problems.log_once(f"calls of {module.__name__.partition('.')[0]} are not recorded ({format_error(error)})", error)


def is_instrumented(module: str) -> bool:
    """Whether the client in ``module``, one of CLIENT_MODULES, is imported and its calls are recorded."""
    return _Options.enabled and bool(getattr(sys.modules.get(module), _MARK, False))


class RecordedCall:
    """A call of a client between its start and its end. No method raises."""

    def __init__(self, task: Task, model: str, tools: list[object]) -> None:
        self._task = task
        self._tools = tools
        self._lock = threading.Lock()
        self._ended = False
        self._call: Call = task.call(model or None)
        self._call.begin()

    def __enter__(self) -> RecordedCall:
        self._token = _in_client.set(True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _in_client.reset(self._token)
        if error is not None:
            self.end(error)

    @_guarded
    def chunk(self, chunk: object) -> None:
        """A chunk of the response arrived."""
        self._call.chunk(chunk, self._tools)

    @_guarded
    def response(self, response: object) -> None:
        """The response is there and whole."""
        self._call.record(response, self._tools)
        self.end()

    @_guarded
    def end(self, error: BaseException | None = None) -> None:
        """The call is over, with what came until now. Later calls of this method change nothing."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._call.end(error)
        if _Options.tools and not self._task.ended:
            declared = tool_names(self._tools)
            now = self._task.now()
            for requested in self._call.requested:
                self._task.add_tool(requested, start=now, end=now, call=self._call, outcome=_outcome(requested, declared))


def _outcome(requested: RequestedTool, declared: list[str]) -> str:
    """What the reply alone shows of a tool call."""
    if declared and requested.name not in declared:
        return "undeclared"
    return "malformed" if requested.problem else "unchecked"


@_guarded
def begin_call(model: object, tools: object, server: object = None) -> RecordedCall | None:
    """The call that begins here; None where it is not to be recorded."""
    if not _Options.enabled or _in_client.get() or current.records_itself():
        return None
    task = current.current_task()
    if task is not None and task.is_inherited and not _processes.has(task):
        _problems.log_once("a call in a forked process, whose task was opened by its parent, is not recorded")
        return None
    if task is None or task.is_inherited or _processes.has(task):
        if any(not _processes.owns(run) for run in current.open_runs()):
            _problems.log_once("a call outside of every task is not recorded; make it inside 'with run.task(...)'")
            return None
        task = _processes.task(as_text(model), server)
    if task is None or not task.records_clients:
        return None
    return RecordedCall(task, as_text(model), as_list(tools))


@contextmanager
def _ends_with_stream(recorded: RecordedCall | None) -> Iterator[RecordedCall | None]:
    """The call ends with the stream, by its error where it has one; a caller that stops early is none."""
    try:
        yield recorded
    except GeneratorExit:
        raise
    except BaseException as error:
        if recorded is not None:
            recorded.end(error)
        raise
    finally:
        if recorded is not None:
            recorded.end()


def _record_chunks(chunks: Iterator[T], call: Callable[[], RecordedCall | None]) -> Iterator[T]:
    """Passes chunks on. ``call`` begins the call with the first of them."""
    try:
        with _ends_with_stream(call()) as recorded:
            for chunk in chunks:
                if recorded is not None:
                    recorded.chunk(chunk)
                yield chunk
    finally:
        if (close := getattr(chunks, "close", None)) is not None:
            close()


async def _record_async_chunks(chunks: AsyncIterator[T], call: Callable[[], RecordedCall | None]) -> AsyncIterator[T]:
    try:
        with _ends_with_stream(call()) as recorded:
            async for chunk in chunks:
                if recorded is not None:
                    recorded.chunk(chunk)
                yield chunk
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


# openai: SyncAPIClient.request and AsyncAPIClient.request, which every method of every resource calls.


def _wrap_openai(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "SyncAPIClient.request", _openai_request)
    wrapt.wrap_function_wrapper(module, "AsyncAPIClient.request", _openai_async_request)


def _openai_request(wrapped: Callable[..., T], client: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> T:
    recorded = _begin_openai(client, args, kwargs)
    if recorded is None:
        return wrapped(*args, **kwargs)
    with recorded:
        response = wrapped(*args, **kwargs)
    _openai_response(response, recorded)
    return response


async def _openai_async_request(
    wrapped: Callable[..., Awaitable[T]], client: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    recorded = _begin_openai(client, args, kwargs)
    if recorded is None:
        return await wrapped(*args, **kwargs)
    with recorded:
        response = await wrapped(*args, **kwargs)
    _openai_response(response, recorded)
    return response


@_guarded
def _begin_openai(client: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RecordedCall | None:
    """``args``: the type of the response and the options of the request."""
    options = kwargs["options"] if "options" in kwargs else args[1]
    # Azure puts the deployment in front of the path.
    if not str(options.url).partition("?")[0].endswith(OPENAI_PATHS) or str(options.method).lower() != "post":
        return None
    body = as_dict(options.json_data)
    return begin_call(body.get("model"), body.get("tools"), getattr(client, "base_url", None))


@_guarded
def _openai_response(response: object, recorded: RecordedCall) -> None:
    if hasattr(response, "_iterator"):
        _record_openai_stream(response, recorded)
    elif hasattr(response, "http_response"):
        _record_raw_response(response, recorded)
    else:
        recorded.response(response)


def _record_openai_stream(stream: Any, recorded: RecordedCall) -> None:
    """Puts the recording between the stream and its iterator: the stream stays the object that it is."""
    chunks = stream._iterator
    record = _record_async_chunks if hasattr(chunks, "__anext__") else _record_chunks
    stream._iterator = record(chunks, lambda: recorded)
    close = stream.close
    if inspect.iscoroutinefunction(close):

        async def close_async() -> None:
            recorded.end()
            await close()

        stream.close = close_async
    else:

        def close_sync() -> None:
            recorded.end()
            close()

        stream.close = close_sync
    # A stream without a reader.
    weakref.finalize(stream, recorded.end)


def _record_raw_response(response: Any, recorded: RecordedCall) -> None:
    """``with_raw_response`` and ``with_streaming_response``, as langchain and litellm ask: the caller parses it, or does not."""
    http_response = response.http_response
    content_type = str(http_response.headers.get("content-type", ""))
    if getattr(http_response, "is_stream_consumed", False) and "json" in content_type:
        recorded.response(http_response.json())
        return
    parse = response.parse

    def record_parsed(parsed: object) -> None:
        if hasattr(parsed, "_iterator"):
            _record_openai_stream(parsed, recorded)
        else:
            recorded.response(parsed)

    seen: set[int] = set()

    @functools.wraps(parse)
    def parse_and_record(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        if inspect.isawaitable(parsed):
            return _record_awaited(parsed, record_parsed, seen)
        if id(parsed) not in seen:
            seen.add(id(parsed))
            _guarded(record_parsed)(parsed)
        return parsed

    response.parse = parse_and_record
    weakref.finalize(response, recorded.end) if not content_type.startswith("text/event-stream") else None


async def _record_awaited(parsed: Awaitable[T], record: Callable[[object], None], seen: set[int]) -> T:
    value = await parsed
    if id(value) not in seen:
        seen.add(id(value))
        _guarded(record)(value)
    return value


# ollama: Client._request and AsyncClient._request, which also the functions of the package call.


def _wrap_ollama(module: ModuleType) -> None:
    wrapt.wrap_function_wrapper(module, "Client._request", _ollama_request)
    wrapt.wrap_function_wrapper(module, "AsyncClient._request", _ollama_async_request)


def _ollama_request(wrapped: Callable[..., Any], client: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    begin = _ollama_call(client, args, kwargs)
    if begin is None:
        return wrapped(*args, **kwargs)
    if kwargs.get("stream"):
        # The request is sent when the first chunk is asked for.
        return _record_chunks(wrapped(*args, **kwargs), begin)
    recorded = begin()
    if recorded is None:
        return wrapped(*args, **kwargs)
    with recorded:
        response = wrapped(*args, **kwargs)
    recorded.response(response)
    return response


async def _ollama_async_request(
    wrapped: Callable[..., Awaitable[Any]], client: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    begin = _ollama_call(client, args, kwargs)
    if begin is None:
        return await wrapped(*args, **kwargs)
    if kwargs.get("stream"):
        return _record_async_chunks(await wrapped(*args, **kwargs), begin)
    recorded = begin()
    if recorded is None:
        return await wrapped(*args, **kwargs)
    with recorded:
        response = await wrapped(*args, **kwargs)
    recorded.response(response)
    return response


@_guarded
def _ollama_call(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], RecordedCall | None] | None:
    """What begins the call; None for a request that is no call of a model. ``args``: type, method and path."""
    if not any(path in OLLAMA_PATHS for path in args[1:] if isinstance(path, str)):
        return None
    body = as_dict(kwargs.get("json"))
    server = getattr(getattr(client, "_client", None), "base_url", None)
    return lambda: begin_call(body.get("model"), body.get("tools"), server)


# litellm: its two functions; what they call underneath, the openai client for one, belongs to the same call.


def _wrap_litellm(module: ModuleType) -> None:
    package = sys.modules["litellm"]
    for name, wrapper in (("completion", _litellm_completion), ("acompletion", _litellm_acompletion)):
        original = getattr(module, name)
        wrapped = wrapt.FunctionWrapper(original, wrapper)
        setattr(module, name, wrapped)
        if getattr(package, name, None) is original:
            setattr(package, name, wrapped)
    streams = sys.modules["litellm.litellm_core_utils.streaming_handler"]
    wrapt.wrap_function_wrapper(streams, "CustomStreamWrapper.__next__", _litellm_next)
    wrapt.wrap_function_wrapper(streams, "CustomStreamWrapper.__anext__", _litellm_anext)


def _litellm_completion(wrapped: Callable[..., T], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> T:
    recorded = _begin_litellm(args, kwargs)
    if recorded is None:
        return wrapped(*args, **kwargs)
    with recorded:
        response = wrapped(*args, **kwargs)
    _litellm_response(response, recorded)
    return response


async def _litellm_acompletion(
    wrapped: Callable[..., Awaitable[T]], _: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    recorded = _begin_litellm(args, kwargs)
    if recorded is None:
        return await wrapped(*args, **kwargs)
    with recorded:
        response = await wrapped(*args, **kwargs)
    _litellm_response(response, recorded)
    return response


@_guarded
def _begin_litellm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RecordedCall | None:
    model = as_text(kwargs.get("model") or (args[0] if args else ""))
    return begin_call(model.partition("/")[2] or model, kwargs.get("tools"), kwargs.get("api_base") or kwargs.get("base_url"))


@_guarded
def _litellm_response(response: Any, recorded: RecordedCall) -> None:
    if type(response).__name__ == "CustomStreamWrapper":
        response._joulebench_call = recorded
        weakref.finalize(response, recorded.end)
    elif inspect.isawaitable(response):
        # ``completion(acompletion=True)``, called by itself.
        recorded.end()
    else:
        recorded.response(response)


def _litellm_next(wrapped: Callable[[], T], stream: object, _: tuple[()], __: Mapping[str, Any]) -> T:
    recorded: RecordedCall | None = getattr(stream, "_joulebench_call", None)
    if recorded is None:
        return wrapped()
    try:
        chunk = wrapped()
    except StopIteration:
        recorded.end()
        raise
    except BaseException as error:
        recorded.end(error)
        raise
    recorded.chunk(chunk)
    return chunk


async def _litellm_anext(wrapped: Callable[[], Awaitable[T]], stream: object, _: tuple[()], __: Mapping[str, Any]) -> T:
    recorded: RecordedCall | None = getattr(stream, "_joulebench_call", None)
    if recorded is None:
        return await wrapped()
    try:
        chunk = await wrapped()
    except StopAsyncIteration:
        recorded.end()
        raise
    except BaseException as error:
        recorded.end(error)
        raise
    recorded.chunk(chunk)
    return chunk


CLIENT_MODULES: dict[str, Callable[[ModuleType], None]] = {
    "openai._base_client": _wrap_openai,
    "ollama._client": _wrap_ollama,
    "litellm.main": _wrap_litellm,
}
"""The modules with the functions that are wrapped."""
