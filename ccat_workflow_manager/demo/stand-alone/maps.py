"""The last step: combine all scans into maps, pictures and statistics."""

from __future__ import annotations

import figures
from files import read_json, read_zarr, write_fits
from gridding import Gridder, Rows
from sky import BEAM, CHANNEL_WIDTH, CHANNELS, LINE_WINDOW, VELOCITIES
from workspace import Workspace, say

LINES = {"CO43": ("12CO(4-3)", 461.041), "CO76": ("12CO(7-6)", 806.652), "CI21": ("[CI] 3P2-3P1", 809.342)}
CENTRE = (204.2538, -29.8658)
CELL, CELLS = 4.0, 144
EXTENT = CELL * CELLS
SOURCE = "Demo galaxy"


class Sums:
    """Sums over all spectra."""

    def __init__(self) -> None:
        window = [index for index, v in enumerate(VELOCITIES) if abs(v) <= LINE_WINDOW]
        self._window = slice(window[0], window[-1] + 1)
        self._velocities = VELOCITIES[self._window]
        self.gridder = Gridder(CELLS, CELL, BEAM * 0.75, planes=2)
        self.spectra = 0
        self.worst_rms = 0.0
        self._total = [0.0] * CHANNELS
        self._best = 0.0
        self.brightest = [0.0] * CHANNELS

    def add(self, source: str) -> None:
        """Add all spectra of one scan, weighted by its noise."""
        rms: float = read_json(f"{source}/.zattrs")["rms_kelvin"]
        self.worst_rms = max(self.worst_rms, rms)
        (spectra, _), temperatures = read_zarr(source, "temperature")
        _, positions = read_zarr(source, "position")
        for index in range(spectra):
            spectrum = temperatures[index * CHANNELS : (index + 1) * CHANNELS].tolist()
            inside = spectrum[self._window]
            integral = sum(inside) * CHANNEL_WIDTH
            moment = sum(map(float.__mul__, inside, self._velocities)) * CHANNEL_WIDTH
            self.gridder.add(positions[2 * index], positions[2 * index + 1], (integral, moment), 1 / rms**2)
            self._total = list(map(float.__add__, self._total, spectrum))
            if integral > self._best:
                self._best, self.brightest = integral, spectrum
        self.spectra += spectra

    def average(self) -> list[float]:
        return [value / self.spectra for value in self._total]


def grid(work: Workspace, line: str) -> None:
    """Make maps of integrated intensity and velocity from all scans."""
    name, gigahertz = LINES[line]
    sources = sorted(work.manifest["upstream"], key=lambda source: source["key"])
    sums = Sums()
    for source in sources:
        sums.add(f"{source['directory']}/science/spectra.zarr")
        say(f"gridded {source['key']}: {sums.spectra} spectra so far")
    intensity, moment = sums.gridder.mean(0), sums.gridder.mean(1)
    noise, peak = _noise(intensity), max(map(max, intensity))
    _pictures(work, name, intensity, moment, noise, f"{len(sources)} scans, {sums.spectra} spectra")
    figures.spectra(
        work.path("plots/spectrum.png"),
        [
            ("average of the map, 50 times", [50 * value for value in sums.average()]),
            ("brightest position", sums.brightest),
        ],
        "Line profiles",
        f"{name}, {gigahertz:.3f} GHz   shaded: where the baselines were fitted",
    )
    work.describe("plots/spectrum.png", "line profiles")
    quality = {"noise_k_km_s": round(noise, 4), "signal_to_noise": round(peak / noise, 1)}
    _image(work, name, gigahertz, intensity, quality)
    statistics = {
        "scans": len(sources),
        "spectra": sums.spectra,
        "peak_k_km_s": round(peak, 3),
        "flux_k_km_s_arcmin2": round(sum(map(sum, intensity)) * (CELL / 60) ** 2, 1),
        **quality,
    }
    work.write("statistics/statistics.json", statistics, "statistics of the map")
    metrics = {**quality, "coverage": _coverage(sums.gridder), "worst_rms_kelvin": sums.worst_rms}
    work.write("qa/metrics.json", metrics, "quality of the map")
    say(f"map: peak {peak:.1f} K km/s, noise {noise:.2f} K km/s, signal to noise {peak / noise:.0f}")
    work.finish()


def _pictures(work: Workspace, name: str, intensity: Rows, moment: Rows, noise: float, counted: str) -> None:
    peak = max(map(max, intensity))
    foot = f"{counted}   peak {peak:.0f} K km/s, noise {noise:.2f} K km/s   contours 5, 10, 20, 40, 80 \u03c3"
    texts = SOURCE, f"{name} integrated intensity", foot
    figures.integrated_map(work.path("plots/map.png"), intensity, EXTENT, noise, texts)
    work.describe("plots/map.png", "picture of the map")
    velocity = [
        [m / i if i > 3 * noise else 0.0 for m, i in zip(moments, values, strict=True)]
        for moments, values in zip(moment, intensity, strict=True)
    ]
    light = [[min(1.0, max(0.0, (value / noise - 3) / 9)) for value in values] for values in intensity]
    texts = SOURCE, f"{name} mean velocity", f"{counted}   brightness follows the integrated intensity"
    figures.velocity_map(work.path("plots/velocity.png"), velocity, light, EXTENT, 90, texts)
    work.describe("plots/velocity.png", "velocity field")


def _image(work: Workspace, name: str, gigahertz: float, intensity: Rows, quality: dict[str, float]) -> None:
    middle = (CELLS + 1) / 2
    cards: dict[str, tuple[str | float, str]] = {
        "OBJECT": (SOURCE, "invented"),
        "BUNIT": ("K km/s", "integrated intensity"),
        "LINE": (name, "spectral line"),
        "RESTFRQ": (gigahertz * 1e9, "[Hz] rest frequency"),
        "BMAJ": (BEAM / 3600, "[deg] beam"),
        "BMIN": (BEAM / 3600, "[deg] beam"),
        "BPA": (0.0, "[deg]"),
    }
    for axis, kind, centre, step in ((1, "RA---TAN", CENTRE[0], -CELL), (2, "DEC--TAN", CENTRE[1], CELL)):
        cards[f"CTYPE{axis}"] = (kind, "")
        cards[f"CRVAL{axis}"] = (centre, "[deg]")
        cards[f"CRPIX{axis}"] = (middle, "")
        cards[f"CDELT{axis}"] = (step / 3600, "[deg]")
    # A map runs from south to north; in each row east is first, and offsets grow to the east.
    write_fits(work.path("science/map.fits"), intensity, cards)
    work.describe("science/map.fits", f"{name} map", None, **quality)


def _noise(rows: list[list[float]]) -> float:
    """Estimate the noise of a map from its negative values, which no emission has."""
    negative = sorted(-value for row in rows for value in row if value < 0)
    return negative[len(negative) * 68 // 100] if negative else 1e-6


def _coverage(gridder: Gridder) -> float:
    covered = sum(weight > 0 for row in gridder.weights for weight in row)
    return round(covered / (gridder.cells * gridder.cells), 4)
