"""What every part of a result file is made of."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Number: TypeAlias = float | None
Count: TypeAlias = int | None
Text: TypeAlias = str | None
Truth: TypeAlias = bool | None


class Record(msgspec.Struct, kw_only=True):
    """A part of a result file; every field has a default, so older files and those of the client load too."""
