"""Basic authentication against bcrypt hashes, for an asyncio server.

bcrypt is slow on purpose and Prometheus asks several times a second, so pairs that were right are remembered for a while, as a
keyed digest and never as the password. Everything else is checked in a thread of its own, newest first, for at most
``MAX_PENDING`` requests. Each wrong password delays the next refusal to its address, so that clients that guess cannot keep
the right password out: they wait, and a right password never does. A wrong user costs the same time as a wrong password.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError

REMEMBER_SECONDS = 3600.0
MAX_REMEMBERED = 256
MAX_PENDING = 64
"""Requests that wait for bcrypt; beyond it the oldest is refused unchecked."""
WORKERS = 1
FREE_FAILURES = 3
"""Wrong passwords of an address before its refusals are delayed."""
FAILURE_MEMORY = 60.0
"""Seconds after which an address's failures are forgotten."""
MAX_ADDRESSES = 4096
FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0
"""Seconds that a refusal is delayed; doubling with each failure of its address."""


@dataclass
class _Failures:
    count: int
    last_at: float


class _Superseded(Exception):
    """So many newer requests wait for bcrypt that this one is refused unchecked."""


class BasicAuth:
    """``where`` begins the error messages. Raises UserError for a hash that is not bcrypt, or when bcrypt is not installed."""

    def __init__(self, hashes: Mapping[str, str], where: str, clock: Clock | None = None) -> None:
        try:
            import bcrypt
        except ImportError as error:
            raise UserError(
                f"{where}basic_auth_users needs bcrypt; install it with: pip install 'joulebench[basic-auth]'"
            ) from error
        self._checkpw = bcrypt.checkpw
        self._hashes = {user: hashed.encode() for user, hashed in hashes.items()}
        for user in self._hashes:
            self._require_hash(user, where)
        # Same cost as the real hashes, so that the time of an answer does not show whether a user exists.
        self._dummy_hash = next(iter(self._hashes.values()))
        self._clock = clock or SystemClock()
        self._key = secrets.token_bytes(32)
        # Used by the event loop's thread alone.
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._pending: OrderedDict[asyncio.Future[bool], tuple[str, bytes]] = OrderedDict()
        self._running = 0
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="joulebench-bcrypt")

    async def allow(self, authorization: str, address: str) -> bool:
        """Whether an Authorization header names a known user and that user's password; a refusal may come late."""
        pair = parse_basic(authorization)
        if pair is None:
            return False
        user, password = pair
        digest = hmac.digest(self._key, user.encode() + b"\0" + password, hashlib.sha256)
        now = self._clock.monotonic()
        if self._remembered.get(digest, 0.0) > now:
            return True
        try:
            is_right = await self._check(user, password)
        except _Superseded:
            is_right = False
        if not is_right:
            await asyncio.sleep(self._note_failure(address))
            return False
        self._remembered[digest] = self._clock.monotonic() + REMEMBER_SECONDS
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return True

    async def _check(self, user: str, password: bytes) -> bool:
        """Waits for bcrypt, newest request first: those who guess have to wait for their answer, and then are delayed."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending[future] = (user, password)
        if len(self._pending) > MAX_PENDING:
            oldest, _ = self._pending.popitem(last=False)
            if not oldest.done():
                oldest.set_exception(_Superseded())
        self._run_next()
        try:
            return await future
        finally:
            self._pending.pop(future, None)

    def _run_next(self) -> None:
        while self._running < WORKERS and self._pending:
            future, (user, password) = self._pending.popitem(last=True)
            if future.done():
                continue
            self._running += 1
            check = asyncio.get_running_loop().run_in_executor(self._threads, self._compare, user, password)
            check.add_done_callback(lambda done, future=future: self._finish(future, done))  # type: ignore[misc]

    def _finish(self, future: asyncio.Future[bool], done: asyncio.Future[bool]) -> None:
        self._running -= 1
        if done.cancelled():  # closed: no request is left without an answer
            future.cancel()
            return
        if not future.done():
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(error)
        self._run_next()

    def _compare(self, user: str, password: bytes) -> bool:
        hashed = self._hashes.get(user)
        # bcrypt uses 72 bytes of a password at most; its newer versions refuse to be given more.
        fits = self._checkpw(password[:72], hashed or self._dummy_hash)
        return fits and hashed is not None

    def _note_failure(self, address: str) -> float:
        """Counts a wrong password of ``address``. Returns the seconds that its refusal is delayed."""
        now = self._clock.monotonic()
        failures = self._failures.pop(address, None)
        if failures is None or now - failures.last_at > FAILURE_MEMORY:
            failures = _Failures(0, now)
        failures.count += 1
        failures.last_at = now
        self._failures[address] = failures
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        over = failures.count - FREE_FAILURES
        return 0.0 if over <= 0 else min(FIRST_DELAY * 2.0 ** min(over - 1, 16), LONGEST_DELAY)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _require_hash(self, user: str, where: str) -> None:
        try:
            self._checkpw(b"", self._hashes[user])
        except ValueError as error:
            raise UserError(
                f"{where}basic_auth_users: the value of {user!r} is not a bcrypt hash; make one with: htpasswd -nBC 10 {user}"
            ) from error


def parse_basic(authorization: str) -> tuple[str, bytes] | None:
    """Returns (user, password) of an Authorization header, None where it is not a basic one."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        # bcrypt reads a NUL as the end of the password, so such a password would match a shorter one.
        return (user.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
