"""The invented source of the demo: a rotating spiral galaxy with a companion, in one submillimetre line.

The seed determines all of it.
"""

from __future__ import annotations

import math
import random

CHANNELS = 80
CHANNEL_WIDTH = 5.0
"""km/s."""
VELOCITIES = [(channel - (CHANNELS - 1) / 2) * CHANNEL_WIDTH for channel in range(CHANNELS)]
LINE_WINDOW = 105.0
"""Beyond this velocity (km/s) there is no emission, and baselines are fitted."""

BEAM = 16.0
"""Full width at half maximum, in arcseconds like all positions here."""
SPACING = 8.0
POINTS = 72
"""Samples in a row of the map, and rows."""

_INCLINATION = math.radians(33)
_POSITION_ANGLE = math.radians(28)
_PITCH = math.tan(math.radians(17))
_ARM_START = 34.0
_CLUMPS = 170


class Galaxy:
    """The sky without noise."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(f"galaxy {seed}")
        self._clumps = []
        for _ in range(_CLUMPS):
            radius = dice.uniform(40, 245)
            spread = 0.11 if dice.random() < 0.75 else 0.6
            angle = math.log(radius / _ARM_START) / _PITCH + dice.choice((0.0, math.pi)) + dice.gauss(0, spread)
            size = dice.uniform(5, 9)
            brightness = dice.uniform(0.1, 1.0) ** 3 * 4.5 * math.exp(-radius / 230)
            self._clumps.append((*_on_sky(radius, angle), brightness, 0.5 / size**2))

    def line(self, x: float, y: float) -> tuple[float, float, float]:
        """Peak temperature (K), velocity and width (km/s) of the line at an offset on the sky."""
        radius, angle = _in_plane(x, y)
        phase = 2 * (angle - math.log(max(radius, 1.0) / _ARM_START) / _PITCH)
        arms = math.exp(3.4 * (math.cos(phase) - 1)) * (1 - math.exp(-((radius / 36) ** 2)))
        edge = 1 / (1 + math.exp((radius - 238) / 11))
        peak = edge * math.exp(-radius / 145) * (0.30 + 1.7 * arms) + 2.7 * math.exp(-((radius / 15) ** 2) / 2)
        for clump_x, clump_y, brightness, narrowness in self._clumps:
            distance = (x - clump_x) ** 2 + (y - clump_y) ** 2
            if distance < 900:
                peak += brightness * math.exp(-distance * narrowness)
        velocity = 118 * math.sin(_INCLINATION) * math.tanh(radius / 40) * math.cos(angle)
        width = 8 + 14 * math.exp(-radius / 28)
        companion = 1.4 * math.exp(-((x - 178) ** 2 + (y - 212) ** 2) / 640)
        if companion > 0.002:
            share = companion / (peak + companion)
            velocity += share * (58 - velocity)
            peak += companion
        return peak, velocity, width

    def spectrum(self, x: float, y: float) -> list[float]:
        """The line in all channels."""
        peak, velocity, width = self.line(x, y)
        if peak < 0.001:
            return [0.0] * CHANNELS
        scale = -0.5 / width**2
        exp = math.exp
        return [peak * exp(scale * (channel - velocity) ** 2) for channel in VELOCITIES]


def _on_sky(radius: float, angle: float) -> tuple[float, float]:
    along, across = radius * math.cos(angle), radius * math.sin(angle) * math.cos(_INCLINATION)
    cos, sin = math.cos(_POSITION_ANGLE), math.sin(_POSITION_ANGLE)
    return along * cos - across * sin, along * sin + across * cos


def _in_plane(x: float, y: float) -> tuple[float, float]:
    cos, sin = math.cos(_POSITION_ANGLE), math.sin(_POSITION_ANGLE)
    along, across = x * cos + y * sin, (y * cos - x * sin) / math.cos(_INCLINATION)
    return math.hypot(along, across), math.atan2(across, along)
