"""Invents fifty scans of a source, for a first try: python3 make_scans.py DIRECTORY"""

import math
import os
import random
import sys

for row in range(50):
    noise = random.Random(row)
    offset = noise.uniform(5, 15)
    source = [4 * math.exp(-((row - 25) ** 2 + (column - 30) ** 2) / 90) for column in range(60)]
    values = [offset + noise.gauss(0, 0.2) + signal for signal in source]
    with open(os.path.join(sys.argv[1], f"scan_{row:03}.txt"), "w") as file:
        print(*(f"{value:.3f}" for value in values), file=file)
