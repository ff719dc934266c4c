"""The logprobs of a common streamed piece cut out without reading the piece: TTFT is not to wait for JSON.

A quote inside a JSON string is escaped, so ``,"logprobs":`` can only be the name of a member. It is the server's own where the
piece holds no tool call, whose arguments are the only objects that a model fills. Whatever is less plain is left to be read.
"""

from __future__ import annotations

import json
import re

_MEMBER = re.compile(r',\s*"logprobs"\s*:\s*(?=[\[{])')
_SAYS = re.compile(r'"(?:content|thinking|reasoning|reasoning_content)"\s*:\s*"[^"]')
_skip = json.JSONDecoder().raw_decode


def without_logprobs(data: bytes) -> bytes | None:
    """The piece without its one ``logprobs``; None where it takes reading to be sure that this, and a whole piece, is left."""
    if b'"tool_calls"' in data or data.count(b'"logprobs"') != 1:
        return None
    try:
        text = data.decode()
        member = _MEMBER.search(text)
        if member is None:
            return None
        left = text[: member.start()] + text[_skip(text, member.end())[1] :]
    except (ValueError, RecursionError):
        return None
    return left.encode() if _SAYS.search(left) else None
