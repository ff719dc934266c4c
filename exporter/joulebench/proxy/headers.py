"""Headers that go on and headers that end here (RFC 9110, 7.6.1)."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy

from joulebench.proxy.address import RUN_HEADER, TASK_HEADER

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
OURS = frozenset(("host", "expect", RUN_HEADER.lower(), TASK_HEADER.lower()))
"""The proxy answers these itself."""
LENGTH = frozenset(("content-length",))

NEVER_INVENTED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What an HTTP client adds where its caller sends none."""

_NOT_UPSTREAM = HOP_BY_HOP | OURS
_NOT_UPSTREAM_RESIZED = _NOT_UPSTREAM | LENGTH
_RESIZED = HOP_BY_HOP | LENGTH


def for_upstream(headers: CIMultiDictProxy[str], *, keep_length: bool, uncompressed: bool) -> CIMultiDict[str]:
    """``uncompressed``: the reply is to be edited."""
    kept = _without(headers, _NOT_UPSTREAM if keep_length else _NOT_UPSTREAM_RESIZED)
    if uncompressed:
        kept["Accept-Encoding"] = "identity"
    return kept


def for_client(headers: CIMultiDictProxy[str], *, keep_length: bool) -> CIMultiDict[str]:
    return _without(headers, HOP_BY_HOP if keep_length else _RESIZED)


def _without(headers: CIMultiDictProxy[str], names: frozenset[str]) -> CIMultiDict[str]:
    connection = headers.get("Connection")
    if connection is not None and connection.lower() not in ("keep-alive", "close"):
        named = [name.strip().lower() for value in headers.getall("Connection") for name in value.split(",")]
        names = names.union(named)
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in names])
