"""Does the energy counter agree with the power that the same card shows? Once after start, as a ratio to be kept.

There are cards whose counter runs at half speed, and cards whose power reading is off; either way the two disagree, and only a
comparison tells. Pure: time comes with the readings.
"""

from __future__ import annotations

from joulebench.units import Ratio

SECONDS = 10.0
GAP_SECONDS = 0.5
"""Between two power readings; a longer gap begins the check anew."""
TRUSTED_RATIO = (0.9, 1.1)


class CrossCheck:
    """``ratio``: counter joules by integrated power joules, from one counter change to another at least ``SECONDS`` later."""

    def __init__(self) -> None:
        self.ratio: Ratio | None = None
        self._power: tuple[float, float] | None = None
        self._integral = 0.0
        self._begun: tuple[float, float, float] | None = None

    @property
    def disagrees(self) -> bool:
        return self.ratio is not None and not TRUSTED_RATIO[0] <= self.ratio <= TRUSTED_RATIO[1]

    def power(self, at: float, watts: float) -> None:
        if self._power is not None:
            span = at - self._power[0]
            if span > GAP_SECONDS:
                self.restart()
            self._integral += (self._power[1] + watts) / 2 * span
        self._power = (at, watts)

    def change(self, at: float, joules: float) -> None:
        """The counter changed to ``joules`` at ``at``, which is not after the last power reading's time."""
        if self._power is None:
            return
        integral = self._integral - self._power[1] * (self._power[0] - at)
        if self._begun is None:
            self._begun = (at, joules, integral)
            return
        spent, expected = joules - self._begun[1], integral - self._begun[2]
        if spent < 0:
            self.restart()
        elif at - self._begun[0] >= SECONDS and expected > 0:
            self.ratio = Ratio(spent / expected)

    def restart(self) -> None:
        self._begun = None
