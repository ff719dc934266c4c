"""Writes docs/CARDS.md: what Joulebench shows of each card, from the goldens of the captures (tests/goldens/captures).

``--check`` writes nothing and exits with 1 where the file is not up to date.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping

from generated_doc import ROOT, table, write_or_check
from joulebench.gpu.nvml_calls import fine_throttle_fields

GOLDENS = ROOT / "tests" / "goldens" / "captures"
TARGET = ROOT / "docs" / "CARDS.md"
INTRO = """\
# Cards

What Joulebench can measure on a card, by the states of real machines that its tests play: {captures} captures of {cards} kinds of
cards. It is written by `make docs` from what the exporter shows of them.

The captures are derived from public figures of `nvidia-smi`, whose sources are in `tests/captures/real_cards.json`; none is
recorded, and none shows the value of the energy counter: where a source does not say whether there is one, NVIDIA's documentation
decides (Volta and newer). A card behaves differently under another driver, in a virtual machine and under WSL2, so
`joulebench doctor` on your machine has the last word.

- **energy**: `counter`: the driver counts joules; `power`: power is integrated, which short windows suffer from.
- **throttling**: `counter`: seconds by reason, as the driver counts them; `bits`: summed up from the reasons that are
  set when they are read, 50 times a second. Drivers set and count the power cap (`sw_power_cap`) on idle cards too, so it counts
  only while the power is at 90 % of the enforced limit or more; on a card without a limit it is unknown.
- `-`: the capture has none. Either the driver does not give it, or its public source does not print it.
- **states**: how many captures there are, and their drivers.

Where a cell has two words, it depends on the driver or on the state.

"""
OUTRO = """
## Send a capture

`joulebench record-capture --label idle`, and again with `--label load` while a model answers. The file names no host or user, and
GPUs by a hash of their UUID. A recording is worth more than a derived capture: see `tests/captures/README.md`.
"""
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "utilization": {"gpu_utilization_ratio": "yes"},
    "power": {"gpu_power_watts": "yes"},
    "limit": {"gpu_power_limit_watts": "yes"},
    "temperature": {"gpu_temperature_celsius": "yes"},
    "VRAM": {"gpu_memory_used_bytes": "yes"},
    "throttling": {"gpu_throttle_seconds_total": "counter", "gpu_throttle_active": "bits"},
}
"""By column: the word for the first of these series that the exporter shows."""
METHODS = {"counter": "counter", "power_integration": "power", "none": "-"}


def render() -> str:
    cells: defaultdict[str, defaultdict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    paths = sorted(GOLDENS.glob("*.txt"))
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        info = next(line for line in lines if line.startswith("gpu_info"))
        names = {re.split(r"[: ]", line)[0]: line for line in lines if not set(line.partition(": ")[2]) <= {"-", " "}}
        for name in dict.fromkeys(re.findall(r" name='([^']*)'", info)):
            card = cells[name]
            card["states"][path.stem] = None
            driver = next(iter(re.findall(r"driver_version='([^']*)'", info)), "")
            card["drivers"][driver] = None
            if not fine_throttle_fields(driver):
                # The seconds that the exporter shows are then those of the bits.
                names.pop("gpu_throttle_seconds_total", None)
            for method in re.findall(r"energy_method='([^']*)'", info):
                card["energy"][METHODS[method]] = None
            if "gpu_mig_info" in names:
                card["MIG"]["yes"] = None
            for column, series in COLUMNS.items():
                card[column][next((word for name, word in series.items() if name in names), "-")] = None
    rows = []
    for name, card in sorted(cells.items(), key=lambda item: item[0].lower()):
        mig = "yes" if card["MIG"] else ""
        words = [" or ".join(card[column]) for column in ("energy", *COLUMNS)]
        drivers = ", ".join(driver for driver in card["drivers"] if driver not in ("unknown", "not given")) or "not given"
        rows.append((name, *words, mig, f"{len(card['states'])}: {drivers}"))
    head = ("card", "energy", *COLUMNS, "MIG seen", "states: drivers")
    return INTRO.format(captures=len(paths), cards=len(cells)) + table(head, rows) + OUTRO


if __name__ == "__main__":
    sys.exit(write_or_check(render, TARGET, __doc__))
