"""Text from outside as the value of a label: the same text everywhere, so that what is pushed, scraped and journalled meets.

Storable means no lone surrogates, no control characters and a bounded length.
"""

from __future__ import annotations

import hashlib
import re

MAX_LABEL_LENGTH = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def label_text(value: str, longest: int = MAX_LABEL_LENGTH) -> str:
    """``value`` as a label value: printable, valid Unicode, at most ``longest`` characters.

    A longer text keeps its head and gets a hash of the whole, so that two long texts stay two.
    """
    text = _CONTROL.sub(" ", value.encode("utf-8", "replace").decode("utf-8")).strip()
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[: longest - 13]}~{digest}"
