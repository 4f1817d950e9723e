"""Subtracts the baseline of one scan: reduce.py FILE"""

import os
import statistics
import sys

with open(sys.argv[1]) as file:
    values = [float(word) for word in file.read().split()]
baseline = statistics.median(values)
out = os.path.join(os.environ["WORKFLOW_OUTPUT_DIR"], "science")
os.makedirs(out)
with open(os.path.join(out, "scan.txt"), "w") as file:
    print(*(f"{value - baseline:.3f}" for value in values), file=file)
print(f"baseline {baseline:.2f}")
