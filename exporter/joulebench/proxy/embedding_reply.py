"""Replies of embedding endpoints: only their counts are looked for, in the bytes, since the numbers around them are many.

``/v1/embeddings`` has a usage, Ollama's ``/api/embed`` its own counts; ``/api/embeddings``, its older form, tells nothing.
"""

from __future__ import annotations

import re

from joulebench.proxy.reply import Reply
from joulebench.units import Seconds

_PROMPT = re.compile(rb'"(?:prompt_tokens|prompt_eval_count)"\s*:\s*(\d+)')
_LOAD = re.compile(rb'"load_duration"\s*:\s*(\d+)')
_VECTORS = re.compile(rb'"embeddings?"\s*:\s*[\["]')


def embedding_reply(data: bytes) -> Reply:
    reply = Reply()
    reply.complete = _VECTORS.search(data) is not None
    if prompt := _PROMPT.search(data):
        reply.prompt_tokens = int(prompt[1])
    if load := _LOAD.search(data):
        reply.load_seconds = Seconds(int(load[1]) / 1e9)
    return reply
