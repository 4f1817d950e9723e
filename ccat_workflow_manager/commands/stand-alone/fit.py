"""Fits a model of one width, or chooses the best of all fits.

fit WIDTH SEED   writes science/fit.json
best             reads the fits of all widths, writes science/best.json
"""

import json
import math
import os
import random
import sys
from pathlib import Path

UPSTREAM = Path(os.environ["WORKFLOW_UPSTREAM_DIR"])
SCIENCE = Path(os.environ["WORKFLOW_OUTPUT_DIR"]) / "science"
TRUE_WIDTH = 2.0


def shape(x: float, width: float) -> float:
    return math.exp(-0.5 * (x / width) ** 2)


def fit(width: float, seed: int) -> None:
    noise = random.Random(seed)
    grid = [each / 4 for each in range(-40, 41)]
    data = [shape(x, TRUE_WIDTH) + noise.gauss(0, 0.02) for x in grid]  # invented: put your own data in its place
    residual = sum((y - shape(x, width)) ** 2 for x, y in zip(grid, data, strict=True))
    (SCIENCE / "fit.json").write_text(json.dumps({"width": width, "residual": residual}))
    print(f"width {width:g}: residual {residual:.4g}")


def best() -> None:
    fits = [json.loads(path.read_text()) for path in UPSTREAM.glob("fit/*/science/fit.json")]
    found = min(fits, key=lambda each: float(each["residual"]))
    (SCIENCE / "best.json").write_text(json.dumps(found))
    print(f"the best of {len(fits)} has the width {found['width']:g}")


if __name__ == "__main__":
    SCIENCE.mkdir(parents=True, exist_ok=True)
    fit(float(sys.argv[2]), int(sys.argv[3])) if sys.argv[1] == "fit" else best()
