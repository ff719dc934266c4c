"""Basic authentication against bcrypt hashes.

bcrypt is slow on purpose and Prometheus asks several times a second, so a pair that was right is remembered (as a keyed digest,
never as the password); wrong pairs are checked one at a time and cost the same whether or not the user exists.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Mapping

from joulebench.errors import UserError

_REMEMBERED = 256


class Users:
    """``where`` begins the error messages. Raises UserError for a hash that is not bcrypt, or when bcrypt is not installed."""

    def __init__(self, hashes: Mapping[str, str], where: str) -> None:
        try:
            import bcrypt
        except ImportError as error:
            raise UserError(
                f"{where}basic_auth_users needs bcrypt; install it with: pip install 'joulebench[basic-auth]'"
            ) from error
        self._check = bcrypt.checkpw
        self._hashes = {user: hashed.encode() for user, hashed in hashes.items()}
        for user in self._hashes:
            self._require_hash(user, where)
        # Same cost as the real ones, so that a name that does not exist cannot be told by the time it takes.
        self._nobody = next(iter(self._hashes.values()))
        self._key = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._lock = threading.Lock()

    def allow(self, authorization: str) -> bool:
        """Whether the value of the Authorization header names a known user and that user's password."""
        pair = _decode(authorization)
        if pair is None:
            return False
        user, password = pair
        mark = hmac.digest(self._key, user.encode() + b"\0" + password, hashlib.sha256)
        if mark in self._right:
            return True
        hashed = self._hashes.get(user)
        with self._lock:
            # bcrypt uses 72 bytes of a password at most; its newer versions refuse to be given more.
            fits = self._check(password[:72], hashed or self._nobody)
            if not fits or hashed is None:
                return False
            if len(self._right) >= _REMEMBERED:
                self._right.clear()
            self._right.add(mark)
        return True

    def _require_hash(self, user: str, where: str) -> None:
        try:
            self._check(b"", self._hashes[user])
        except ValueError as error:
            raise UserError(
                f"{where}basic_auth_users: the value of {user!r} is not a bcrypt hash; make one with: htpasswd -nBC 10 {user}"
            ) from error


def _decode(authorization: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        # bcrypt reads a NUL as the end of the password, so such a password would match a shorter one.
        return (user.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, UnicodeDecodeError):
        return None
