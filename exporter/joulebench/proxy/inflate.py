"""A compressed reply opened beside its way to the client, who gets it as it came."""

from __future__ import annotations

import zlib


class Inflater:
    """``readable`` is False for a coding that the standard library does not open, and once one breaks."""

    def __init__(self, coding: str) -> None:
        name = coding.strip().lower()
        self.readable = name in ("", "identity", "gzip", "x-gzip", "deflate")
        self._opened = zlib.decompressobj(zlib.MAX_WBITS | 32) if self.readable and name not in ("", "identity") else None

    def feed(self, data: bytes) -> bytes:
        if not self.readable:
            return b""
        if self._opened is None:
            return data
        try:
            return self._opened.decompress(data)
        except zlib.error:
            self.readable = False
            return b""
