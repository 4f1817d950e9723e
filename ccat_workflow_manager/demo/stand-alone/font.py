"""A small stroke font: letters as lines and curves, so that text is sharp at any size and needs no file.

A glyph is its advance width and its strokes. A stroke is a row of points, two characters each: x, and y above the
baseline (capitals are 9 high, small letters 6) or, with a letter, below it. `~` begins a smooth curve from the first
point to the last, `o` a closed one; curves are drawn towards their inner points without reaching them.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

Point = tuple[float, float]
CAPITAL = 9
_TRACKING = 0.6

_BELOW = {"a": -1, "b": -2, "c": -3}
_TABLE = """
! 3 1913 1010|" 5 1917 3937|% 10 o06363909 o50808353 0089|' 3 1917|( 4 ~29042a|) 4 ~09240a|+ 8 0464 3137|, 3 110b
- 6 0444|. 3 1010|/ 6 0a59|: 3 1515 1010|= 8 0565 0363|? 7 ~070969643532 3030|[ 4 39191a3a|] 4 09292a0a|_ 7 0a6a
0 8 o00606909|1 8 173930|2 8 ~0709696500 0060|3 8 ~0709595525 ~2565600002|4 8 50590363|5 8 590905 ~054666600001
6 8 o00606606 ~59090503|7 8 096920|8 8 o15555919 o00606505|9 8 o03636909 ~66646010
A 9 004980 1373|B 9 0009 ~09696505 ~05757000|C 9 ~777909007072|D 9 0009 ~09797000|E 8 69090060 0555|F 8 690900 0555
G 9 ~777909007074 7444|H 9 0009 7079 0575|I 3 1019|J 7 ~5953500003|K 8 0009 6904 2570|L 8 090060|M 10 0009438980
N 9 00097079|O 10 o00808909|P 9 0009 ~09797404|Q 10 o00808909 528a|R 9 0009 ~09797404 3470|S 8 ~6769090564600002
T 7 0969 3930|U 9 ~090300707379|V 9 094089|W 10 0920487099|X 9 0079 0970|Y 9 094489 4440|Z 9 09790070
a 7 o00505606 5650|b 7 0900 o00505606|c 6 ~545606005052|d 7 5950 o00505606|e 7 0353 ~535606005051|f 5 ~49191710 0636
g 7 o00505606 ~565a5c0c0b|h 7 0900 ~0406565350|i 3 1610 1818|j 4 ~262a2c0c 2828|k 6 0900 5602 2450|l 3 1910
m 10 0600 ~0406464340 ~4446868380|n 7 0600 ~0406565350|o 8 o00606606|p 7 060c o00505606|q 7 565c o00505606
r 5 0600 ~030646|s 6 ~4546060343400001|t 6 ~19121040 0646|u 7 ~0602005053 5650|v 7 063066|w 9 0620466086|x 7 0650 0056
y 7 0630 662b|z 7 06560050|\N{GREEK SMALL LETTER SIGMA} 8 o00505606 2676
"""


def _stroke(text: str) -> list[Point]:
    curved, closed = text[0] in "~o", text[0] == "o"
    body = text[1:] if curved else text
    points = [(float(x), float(_BELOW.get(y) or int(y))) for x, y in zip(body[::2], body[1::2], strict=True)]
    return _curve([points[-1], *points, points[0]] if closed else points, closed) if curved else points


def _curve(points: list[Point], closed: bool) -> list[Point]:
    """A quadratic spline through the middles of the polygon's edges."""
    middles = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in pairwise(points)]
    if not closed:
        middles[0], middles[-1] = points[0], points[-1]
    line = [middles[0]]
    for (x0, y0), (x1, y1), (x2, y2) in zip(middles, points[1:], middles[1:], strict=False):
        for part in (0.2, 0.4, 0.6, 0.8, 1.0):
            a, b, c = (1 - part) ** 2, 2 * (1 - part) * part, part * part
            line.append((a * x0 + b * x1 + c * x2, a * y0 + b * y1 + c * y2))
    return line


_GLYPHS = {row[0]: row[2:].split() for line in _TABLE.strip().splitlines() for row in line.split("|")}
_GLYPHS[" "] = ["4"]


@cache
def glyph(character: str) -> tuple[float, list[list[Point]]]:
    """The advance and the strokes of a character. Unknown ones are a question mark."""
    advance, *strokes = _GLYPHS.get(character) or _GLYPHS["?"]
    return int(advance) + _TRACKING, [_stroke(stroke) for stroke in strokes]
