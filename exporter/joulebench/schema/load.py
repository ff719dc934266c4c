"""The one reader of result files: ours of any version, and the MCPWorld client's, backfilled or not.

A field with an unusable value (a text where a number belongs, the client's ``ERROR_GETTING_VALUE``) is absent; a file that is no
result of a task is refused.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from joulebench.errors import UserError
from joulebench.files import decode_text
from joulebench.parsing import as_dict, as_float, as_int, decode_json, printable_text
from joulebench.schema import events
from joulebench.schema.client_identity import UNKNOWN, identify
from joulebench.schema.fields import fields_of
from joulebench.schema.result import RESULT_PATTERN, CallResult, TaskResult

log = logging.getLogger(__name__)

SUCCESS_OF_STATUS = {"success": True, "failure": False, "timeout": False}

StructType = TypeVar("StructType", bound=msgspec.Struct)


class UnreadableResult(UserError):
    """A file that is no result of a task: torn, empty, or of another form."""


def find_result_files(path: Path) -> Iterator[Path]:
    """Result files below a directory in order of their path, or the file itself; each once, whatever links lead to it."""
    seen: set[Path] = set()
    for file in [path] if path.is_file() else sorted(path.rglob(RESULT_PATTERN)):
        real = file.resolve()
        if real not in seen and file.is_file():
            seen.add(real)
            yield file


def load_result(path: Path) -> TaskResult:
    """Raises UnreadableResult, which says what is wrong with the file."""
    try:
        text = decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise UnreadableResult(f"{path}: cannot be read ({error.strerror})") from error
    except UserError as error:
        raise UnreadableResult(str(error)) from error
    try:
        body = decode_json(text)
    except ValueError as error:
        raise UnreadableResult(f"{path}: is not valid JSON ({error}); export the run again") from error
    return result_from_json(body, path)


def load_results(paths: Iterable[Path]) -> list[TaskResult]:
    """Results of all files in these directories. Raises UserError for a directory without any, and for an unreadable file."""
    return list(iterate_results(paths))


def iterate_results(paths: Iterable[Path], left_out: list[str] | None = None) -> Iterator[TaskResult]:
    """``load_results`` of one file after another, where all of them would fill the memory.

    Of the MCPWorld client's sessions of one task the second is ``TASK#2`` and so on, and a copy of a session is left out.
    ``left_out``: takes what is wrong with unreadable files among those of the client, which a benchmark that was killed leaves
    behind. Any other unreadable file raises UnreadableResult.
    """
    for path in paths:
        files = list(find_result_files(path))
        if not files:
            raise UserError(
                f"{path}: no {RESULT_PATTERN}; export the run first, then give its directory, as runs/RUN_ID, or where the client logs"
            )
        yield from iterate_files(files, left_out)


def iterate_files(files: Iterable[Path], left_out: list[str] | None = None) -> Iterator[TaskResult]:
    """``iterate_results`` of these files, which belong together."""
    sessions: dict[tuple[str | None, ...], list[float | None]] = {}
    unreadable: list[UnreadableResult] = []
    for file in files:
        try:
            result = load_result(file)
        except UnreadableResult as error:
            if left_out is None:
                raise
            unreadable.append(error)
            continue
        if result.is_of_client and not _number_repetition(result, sessions):
            if left_out is not None:
                left_out.append(f"{file}: is a copy of a session that was read already")
            continue
        yield result
    if unreadable and not sessions:
        raise unreadable[0]
    if left_out is not None:
        left_out += map(str, unreadable)


def iterate_readable_results(paths: Iterable[Path]) -> Iterator[TaskResult]:
    """``iterate_results`` that logs what it leaves out."""
    left_out: list[str] = []
    yield from iterate_results(paths, left_out)
    for why in left_out:
        log.warning("left out: %s", printable_text(why))


def _number_repetition(result: TaskResult, sessions: dict[tuple[str | None, ...], list[float | None]]) -> bool:
    """Returns False for a copy of a session that is in ``sessions``."""
    meta = result.metadata
    starts = sessions.setdefault((meta.task_id, meta.model_name, meta.infrastructure_tag), [])
    if meta.session_start_unix is not None and meta.session_start_unix in starts:
        return False
    starts.append(meta.session_start_unix)
    if len(starts) > 1:
        meta.task_id = f"{meta.task_id}#{len(starts)}"
    return True


def result_from_json(body: object, path: Path | None = None) -> TaskResult:
    """The result that decoded JSON holds. Raises UnreadableResult."""
    parts = as_dict(body)
    if parts and all(_is_result(task) for task in parts.values()):
        raise UnreadableResult(f"{path or 'the file'}: holds the results of several tasks, each of which has a file of its own")
    if not _is_result(body):
        raise UnreadableResult(f"{path or 'the file'}: has neither metadata nor raw_events; it is no result of a task")
    result = convert_tolerantly(body, TaskResult)
    result.path = path
    result.raw_events = [event for event in result.raw_events if events.is_event(event)]
    result.call_energy = [event for event in result.call_energy if events.is_event(event)]
    if not result.calls and not isinstance(parts.get("calls"), list):
        result.calls = [_call_of_event(event) for event in result.raw_events if event["event_type"] == events.LLM_QUERY_END]
    if result.is_of_client:
        _fill_client_fields(result, parts, path)
    return result


def _is_result(body: object) -> bool:
    parts = as_dict(body)
    return any(isinstance(parts.get(name), dict | list) for name in ("metadata", "raw_events"))


def _fill_client_fields(result: TaskResult, body: dict[str, Any], path: Path | None) -> None:
    """Fills the fields of ours that follow from those of the client: the task's id, its suite, its success, its duration."""
    meta, computed = result.metadata, result.computed_metrics
    identity = identify(as_dict(body.get("metadata")), path)
    meta.task_id = identity.task_key
    meta.task_name = meta.task_name or meta.task_config_at_start.task_name or identity.task
    if identity.application != UNKNOWN:
        meta.application = meta.suite = identity.application
    status = computed.task_completion_status
    if status.success is None and status.status is not None:
        status.success = SUCCESS_OF_STATUS.get(status.status)
    if computed.total_duration_seconds is None:
        headline = as_dict(as_dict(body.get("windows")).get("headline"))
        computed.total_duration_seconds = as_float(headline.get("seconds"))


def convert_tolerantly(value: object, record: type[StructType]) -> StructType:
    """``value`` as a Struct; what has another type than its field is left at the field's default."""
    try:
        return msgspec.convert(value, record)
    except (msgspec.ValidationError, OverflowError):
        return _as_struct(value if isinstance(value, dict) else {}, record)


def _as_struct(value: dict[str, Any], record: type[StructType]) -> StructType:
    given = {}
    for name, field in fields_of(record).items():
        if name in value:
            converted = _as_type(value[name], field.type)
            if converted is not msgspec.NODEFAULT:
                given[name] = converted
    return record(**given)


def _as_type(value: object, hint: Any) -> Any:
    """``value`` as this type; NODEFAULT where it cannot be."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _as_union(value, get_args(hint))
    if origin is list and isinstance(value, list):
        return [one for item in value if (one := _as_type(item, get_args(hint)[0])) is not msgspec.NODEFAULT]
    if origin is dict and isinstance(value, dict):
        pairs = ((key, _as_type(item, get_args(hint)[1])) for key, item in value.items())
        return {key: item for key, item in pairs if item is not msgspec.NODEFAULT}
    return value if hint is Any else _as_plain_type(value, hint)


def _as_union(value: object, hints: tuple[Any, ...]) -> Any:
    if value is None:
        return None if type(None) in hints else msgspec.NODEFAULT
    options = (_as_type(value, one) for one in hints if one not in (type(None), msgspec.UnsetType))
    return next((one for one in options if one is not msgspec.NODEFAULT), msgspec.NODEFAULT)


def _as_plain_type(value: object, hint: Any) -> Any:
    converted: object = None
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        converted = _as_struct(value, hint) if isinstance(value, dict) else None
    elif hint is float:
        converted = as_float(value)
    elif hint is int:
        converted = as_int(value)
    elif hint in (str, bool) and isinstance(value, hint):
        converted = value
    return msgspec.NODEFAULT if converted is None else converted


def _call_of_event(event: dict[str, Any]) -> CallResult:
    """Of a file that was written before calls had rows of their own."""
    call = convert_tolerantly({name: event.get(name) for name in CallResult.__struct_fields__ if name in event}, CallResult)
    call.end = as_float(event.get("timestamp"))
    if call.end is not None:
        call.start = call.end - (call.duration_seconds or 0.0)
    return call
