"""Checks the arguments of tool calls against the JSON schemas that clients declare, with a bound on the time that takes.

A schema is data from a client: a regular expression or nested references in it can take years to evaluate. Schemas of plain
keywords and limited size are evaluated here. All others go to a worker process with a time limit; what exceeds the limit, or
finds the time of the worker used up, is ``unchecked``. Each client's schemas together get a tenth of a core at most.

Run as a program this module is the worker: one JSON line in, ``[schema, arguments]``, one line out, an outcome.
"""

from __future__ import annotations

import hashlib
import json
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

OK, SCHEMA_INVALID, UNCHECKED = "ok", "schema_invalid", "unchecked"

TIME_LIMIT = 0.5
"""Seconds of one check in the worker."""
WORKER_LIMIT = 2.0
"""Seconds of one check after which the worker ends by itself, where nothing is left that would end it."""
START_LIMIT = 10.0
BUDGET_SECONDS = 2.0
BUDGET_SHARE = 0.1
"""Seconds of worker time: at most BUDGET_SECONDS at once and BUDGET_SHARE of a core in the long run."""
MAX_BYTES = 256 * 1024
"""Bytes of schema and arguments together."""
MAX_PLAIN_STEPS = 20_000
"""Values of the schema times values of the arguments, for an evaluation in this process."""
MAX_REMEMBERED = 1000
WORKER_MEMORY = 1024 * 1024 * 1024

_TYPES = ("type", "enum", "const", "format", "nullable")
_OBJECTS = ("properties", "required", "additionalProperties", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems")
_COMBINATIONS = ("anyOf", "oneOf", "allOf")
_NOTES = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$comment", "$id")
_PLAIN_KEYWORDS = frozenset((*_TYPES, *_OBJECTS, *_NUMBERS, *_COMBINATIONS, *_NOTES, "items", "not"))
"""Keywords whose evaluation takes time in proportion to schema and arguments. ``format`` is not asserted."""


class SchemaChecker:
    """For one thread. The worker is started when a schema first needs it."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._budget = BUDGET_SECONDS
        self._budget_at = 0.0
        self._too_slow: dict[bytes, None] = {}
        """Digests of schemas that exceeded the time limit."""

    def check(self, schema: dict[str, object], arguments: object, monotonic: Callable[[], float]) -> str:
        """Returns ``ok``, ``schema_invalid`` or ``unchecked``. A schema that is broken forbids nothing."""
        if not schema:
            return OK
        schema_size = _plain_size(schema)
        if schema_size is not None and schema_size * _size(arguments) <= MAX_PLAIN_STEPS:
            return evaluate(schema, arguments)
        try:
            line = json.dumps([schema, arguments]).encode() + b"\n"
            digest = hashlib.sha256(json.dumps(schema).encode()).digest()
        except (ValueError, RecursionError, TypeError):
            return UNCHECKED
        if len(line) > MAX_BYTES or digest in self._too_slow or not self._has_budget(monotonic()):
            return UNCHECKED
        return self._check_in_worker(line, digest, monotonic)

    def _has_budget(self, now: float) -> bool:
        self._budget = min(BUDGET_SECONDS, self._budget + (now - self._budget_at) * BUDGET_SHARE)
        self._budget_at = now
        return self._budget > 0

    def _check_in_worker(self, line: bytes, digest: bytes, monotonic: Callable[[], float]) -> str:
        began = monotonic()
        answer = self._ask(line)
        self._budget -= monotonic() - began
        if answer is not None:
            return answer
        self._too_slow[digest] = None
        if len(self._too_slow) > MAX_REMEMBERED:
            del self._too_slow[next(iter(self._too_slow))]
        return UNCHECKED

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, line: bytes) -> str | None:
        """Returns the worker's outcome; None where it did not answer in time, and then it is gone."""
        worker = self._running()
        if worker is None or worker.stdin is None or worker.stdout is None:
            return None
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
        except OSError:
            self.close()
            return None
        answer = _read_line(worker, TIME_LIMIT)
        if answer not in (OK, SCHEMA_INVALID, UNCHECKED):
            self.close()
            return None
        return answer

    def _running(self) -> subprocess.Popen[bytes] | None:
        if self._worker is None:
            try:
                self._worker = subprocess.Popen(
                    [sys.executable, "-m", "joulebench.proxy.schema_check"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    # A session of its own: Ctrl-C is for the proxy, which then ends the worker.
                    start_new_session=True,
                )
            except OSError:
                return None
            if _read_line(self._worker, START_LIMIT) != "ready":
                self.close()
        return self._worker


def _read_line(worker: subprocess.Popen[bytes], seconds: float) -> str:
    """Returns what the worker writes within ``seconds``; its answers are shorter than a pipe's buffer and come at once."""
    assert worker.stdout is not None
    ready, _, _ = select.select([worker.stdout], [], [], seconds)
    return worker.stdout.readline().decode("ascii", "replace").strip() if ready else ""


def _plain_size(schema: object, depth: int = 0) -> int | None:
    """Returns the number of values in a schema of plain keywords; None for any other schema."""
    if isinstance(schema, bool):
        return 1
    if not isinstance(schema, dict) or depth > 32 or not schema.keys() <= _PLAIN_KEYWORDS:
        return None
    size = 1 + sum(_size(schema[keyword]) for keyword in ("enum", "const", "required") if keyword in schema)
    for part in _subschemas(schema):
        part_size = _plain_size(part, depth + 1)
        if part_size is None or size + part_size > MAX_PLAIN_STEPS:
            return None
        size += part_size
    return size


def _subschemas(schema: dict[str, object]) -> list[object]:
    """Returns the schemas directly within a schema; what is not a schema stays in the list and is refused there."""
    properties = schema.get("properties", {})
    parts: list[object] = list(properties.values()) if isinstance(properties, dict) else [properties]
    parts += [schema[keyword] for keyword in ("items", "additionalProperties", "not") if keyword in schema]
    for keyword in _COMBINATIONS:
        branches = schema.get(keyword, [])
        parts += branches if isinstance(branches, list) else [branches]
    return parts


def _size(value: object) -> int:
    """Returns the number of values within a JSON value, at most about MAX_PLAIN_STEPS."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_PLAIN_STEPS:
        size += 1
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return size


def evaluate(schema: dict[str, object], arguments: object) -> str:
    """Evaluates without a limit. References are resolved within the schema only, and nothing is fetched for them."""
    from jsonschema import ValidationError
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        validator_for(schema)(schema, registry=Registry()).validate(cast(Any, arguments))
    except ValidationError:
        return SCHEMA_INVALID
    except RecursionError:
        return UNCHECKED
    except Exception:
        # A broken schema raises anything, and the call is not to blame for it.
        return OK
    return OK


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, WORKER_MEMORY))
    evaluate({"type": "object"}, {})
    print("ready", flush=True)  # noqa: T201
    # A proxy that is killed cannot end its worker, and a regular expression looks at nothing but a signal that ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, WORKER_LIMIT)
        schema, arguments = json.loads(line)
        print(evaluate(schema, arguments), flush=True)  # noqa: T201
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
