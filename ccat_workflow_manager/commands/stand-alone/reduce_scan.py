"""Reduces one scan in two steps, then makes a map of all scans.

calibrate SCAN         reads SCAN.txt in the input directory, writes science/calibrated.txt
baseline SCAN DEGREE   reads what calibrate made of this scan, writes science/flat.txt
map                    reads the flat scans, writes science/map.txt, one row for each scan
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

INPUT = Path(os.environ["WORKFLOW_INPUT_DIR"])
UPSTREAM = Path(os.environ["WORKFLOW_UPSTREAM_DIR"])
SCIENCE = Path(os.environ["WORKFLOW_OUTPUT_DIR"]) / "science"
KELVIN_PER_COUNT = 0.5


def read(path: Path) -> list[float]:
    return [float(word) for word in path.read_text().split()]


def write(name: str, numbers: Iterable[float]) -> None:
    (SCIENCE / name).write_text("".join(f"{each:.6g}\n" for each in numbers))
    print(f"wrote {name}")


def calibrate(scan: str) -> None:
    path = INPUT / f"{scan}.txt"
    counts = read(path) if path.exists() else [float(each) for each in scan.encode()]  # invented, if there is no file
    write("calibrated.txt", (KELVIN_PER_COUNT * each for each in counts))


def baseline(scan: str, degree: int) -> None:
    (path,) = UPSTREAM.glob("calibrate/*/science/calibrated.txt")  # of this scan alone
    numbers = read(path)
    print(f"{scan}: a baseline of degree {degree} (here simply the mean: put your own fit in its place)")
    mean = sum(numbers) / len(numbers)
    write("flat.txt", (each - mean for each in numbers))


def make_map() -> None:
    rows = [path.read_text().split() for path in sorted(UPSTREAM.glob("baseline/*/science/flat.txt"))]
    (SCIENCE / "map.txt").write_text("".join(" ".join(row) + "\n" for row in rows))
    print(f"a map of {len(rows)} scans")


if __name__ == "__main__":
    SCIENCE.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["calibrate", name]:
            calibrate(name)
        case ["baseline", name, number]:
            baseline(name, int(number))
        case _:
            make_map()
