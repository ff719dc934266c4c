"""Headers that go on and headers that end here (RFC 9110, 7.6.1)."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy

from joulebench.proxy.address import RUN_HEADER, TASK_HEADER

HOP_BY_HOP = (
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)
OURS = ("Host", "Expect", RUN_HEADER, TASK_HEADER)
"""The proxy answers these itself."""

NEVER_INVENTED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What an HTTP client adds where its caller sends none."""


def for_upstream(headers: CIMultiDictProxy[str], readable: bool) -> CIMultiDict[str]:
    """``readable``: the reply is to be edited, so it must not be compressed."""
    kept = _end_to_end(headers)
    for name in OURS:
        kept.popall(name, None)
    if readable:
        kept["Accept-Encoding"] = "identity"
    return kept


def for_client(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return _end_to_end(headers)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    named = [name.strip() for value in headers.getall("Connection", []) for name in value.split(",")]
    for name in (*HOP_BY_HOP, *named):
        kept.popall(name, None)
    return kept
