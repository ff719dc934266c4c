"""docs/CARDS.md is what the goldens of the captures show."""

from __future__ import annotations

import subprocess
import sys

from tests.contract.sources import ROOT


def test_cards_md_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "render_cards_doc.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
