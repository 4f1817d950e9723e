"""The steps that run for each scan: observe (which invents the data), calibrate, baseline."""

from __future__ import annotations

import array
import math
import random

import figures
from files import read_zarr, write_zarr
from sky import CHANNEL_WIDTH, CHANNELS, LINE_WINDOW, POINTS, SPACING, VELOCITIES, Galaxy
from workspace import Workspace, say

HOT_LOAD, SKY, RECEIVER = 293.0, 262.0, 118.0
"""Temperatures (K): the load, the atmosphere, the receiver."""
INTEGRATION = 10_000
"""Square root of bandwidth times time: the noise is the system temperature divided by it."""
POOR_WEATHER = 1.25
"""A scan gets a warning if its system temperature exceeds the expected one by this factor."""


def observe(work: Workspace, scan: str, seed: int) -> None:
    """Invent the counts of one scan: a block of rows of the map, with loads, drifts and noise."""
    scans = work.manifest["parameters"]["scans"]
    number, rows = scans.index(scan), POINTS / len(scans)
    first, last = round(number * rows), round((number + 1) * rows)
    dice = random.Random(f"{seed} {scan}")
    galaxy = Galaxy(seed)
    depth = 0.42 + 0.05 * math.sin(number) + (0.55 if number % 7 == 4 else 0.0)  # every seventh scan has a cloud
    through = math.exp(-depth)
    off_sky = RECEIVER + SKY * (1 - through)
    gains = [900 * (1 + 0.25 * math.sin(channel / 9 + 1) + 0.1 * math.cos(channel / 3)) for channel in range(CHANNELS)]
    positions, counts = array.array("f"), array.array("f")
    for row in range(first, last):
        for column in range(POINTS):
            x = (column - (POINTS - 1) / 2) * SPACING + dice.gauss(0, 0.8)
            y = (row - (POINTS - 1) / 2) * SPACING + dice.gauss(0, 0.8)
            positions.extend((x, y))
            level, slope, wave, phase = (
                dice.gauss(mean, s) for mean, s in ((off_sky, 0.35), (0, 0.3), (0, 0.1), (0, 2))
            )
            noise = level / INTEGRATION
            sky = (level + slope * v / 200 + wave * math.sin(v / 23 + phase) + dice.gauss(0, noise) for v in VELOCITIES)
            triples = zip(gains, galaxy.spectrum(x, y), sky, strict=True)
            counts.extend(gain * (line * through + rest) for gain, line, rest in triples)
    hot = array.array("f", (gain * (RECEIVER + HOT_LOAD) for gain in gains))
    off = array.array("f", (gain * off_sky for gain in gains))
    spectra = len(positions) // 2
    write_zarr(
        work.path("raw.zarr"),
        {"scan": scan, "hot_load_kelvin": HOT_LOAD, "channel_width_km_s": CHANNEL_WIDTH},
        {
            "position": ((spectra, 2), positions),
            "counts": ((spectra, CHANNELS), counts),
            "hot": ((CHANNELS,), hot),
            "off": ((CHANNELS,), off),
        },
    )
    work.describe("raw.zarr", f"raw counts of {scan}", opacity=round(depth, 3), spectra=spectra)
    say(f"{scan}: {spectra} spectra in rows {first} to {last - 1}, opacity {depth:.2f}")
    work.finish()


def calibrate(work: Workspace, scan: str, key: str) -> None:
    """Convert counts to temperatures by the chopper wheel method: hot load and empty sky."""
    source = f"{work.upstream}/observe/{key}/raw.zarr"
    hot, off = (read_zarr(source, name)[1] for name in ("hot", "off"))
    (spectra, _), counts = read_zarr(source, "counts")
    _, positions = read_zarr(source, "position")
    factors = [HOT_LOAD / (h - o) for h, o in zip(hot, off, strict=True)]
    system = [HOT_LOAD * o / (h - o) for h, o in zip(hot, off, strict=True)]
    temperatures = array.array("f")
    for index in range(spectra):
        spectrum = counts[index * CHANNELS : (index + 1) * CHANNELS]
        temperatures.extend((on - o) * factor for on, o, factor in zip(spectrum, off, factors, strict=True))
    tsys = sum(system) / CHANNELS
    shapes = {"position": ((spectra, 2), positions), "temperature": ((spectra, CHANNELS), temperatures)}
    write_zarr(work.path("calibrated.zarr"), {"scan": scan, "tsys_kelvin": round(tsys, 2)}, shapes)
    parents = [f"observe/{key}"]
    work.describe("calibrated.zarr", f"calibrated spectra of {scan}", parents, tsys_kelvin=round(tsys, 2))
    metrics = {"scan": scan, "tsys_kelvin": round(tsys, 2), "spectra": spectra}
    work.write("qa/metrics.json", metrics, f"calibration quality of {scan}", parents)
    say(f"{scan}: {spectra} spectra calibrated, Tsys {tsys:.0f} K")
    expected = HOT_LOAD * (RECEIVER + SKY * 0.36) / (HOT_LOAD - SKY * 0.36)
    cloudy = tsys > POOR_WEATHER * expected
    work.finish([f"{scan}: Tsys {tsys:.0f} K, expected about {expected:.0f} K; a cloud passed"] if cloudy else [])


def baseline(work: Workspace, scan: str, key: str) -> None:
    """Subtract a line and a standing wave, fitted outside the emission."""
    source = f"{work.upstream}/calibrate/{key}/calibrated.zarr"
    (spectra, _), temperatures = read_zarr(source, "temperature")
    _, positions = read_zarr(source, "position")
    outside = [index for index, v in enumerate(VELOCITIES) if abs(v) > LINE_WINDOW]
    shapes = [
        [1.0] * CHANNELS,
        [v / 200 for v in VELOCITIES],
        [math.sin(v / 23) for v in VELOCITIES],
        [math.cos(v / 23) for v in VELOCITIES],
    ]
    weights = _least_squares([[shape[index] for index in outside] for shape in shapes])
    by_channel = list(zip(*shapes, strict=True))
    flat, rows, variance = array.array("f"), [], 0.0
    for index in range(spectra):
        spectrum = temperatures[index * CHANNELS : (index + 1) * CHANNELS]
        values = [spectrum[channel] for channel in outside]
        a, b, c, d = (sum(map(float.__mul__, row, values)) for row in weights)
        rest = [t - a * p - b * q - c * r - d * s for t, (p, q, r, s) in zip(spectrum, by_channel, strict=True)]
        flat.extend(rest)
        rows.append(rest)
        variance += sum(rest[channel] ** 2 for channel in outside)
    rms = math.sqrt(variance / spectra / (len(outside) - len(shapes)))
    arrays = {"position": ((spectra, 2), positions), "temperature": ((spectra, CHANNELS), flat)}
    write_zarr(work.path("science/spectra.zarr"), {"scan": scan, "rms_kelvin": round(rms, 5)}, arrays)
    figures.waterfall(work.path("plots/waterfall.png"), rows, scan, f"{spectra} spectra, rms {rms * 1000:.0f} mK")
    parents = [f"calibrate/{key}"]
    work.describe("science/spectra.zarr", f"spectra of {scan}", parents, rms_kelvin=round(rms, 5))
    metrics = {"scan": scan, "rms_kelvin": round(rms, 5), "spectra": spectra}
    work.write("qa/metrics.json", metrics, f"baseline quality of {scan}", parents)
    work.describe("plots/waterfall.png", f"waterfall of {scan}", parents)
    say(f"{scan}: baselines of {spectra} spectra, rms {rms * 1000:.0f} mK")
    work.finish()


def _least_squares(shapes: list[list[float]]) -> list[list[float]]:
    """Returns for each shape the weights that give its coefficient: (A A^T)^-1 A by elimination."""
    size = len(shapes)
    normal = [[sum(map(float.__mul__, a, b)) for b in shapes] for a in shapes]
    rows = [left + right for left, right in zip(normal, [list(shape) for shape in shapes], strict=True)]
    for index in range(size):
        pivot = rows[index][index]
        rows[index] = [value / pivot for value in rows[index]]
        for other in range(size):
            if other != index:
                factor = rows[other][index]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[index], strict=True)]
    return [row[size:] for row in rows]
