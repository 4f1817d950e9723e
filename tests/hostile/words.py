"""Words that mean something to a page, a shell, a terminal, a path or a database, and must mean nothing anywhere."""

from __future__ import annotations

WORDS = {
    "html": '<b onmouseover="alert(1)">bold</b>&lt;',
    "script": "</script><script>alert('x')</script>",
    "emoji": "\U0001f52d\U0001f468\u200d\U0001f680",
    "combining": "Z\u0351\u0329a\u0300\u0301\u0302",
    "right to left": "a\u202egnp.exe\u202c\u2066b\u2069",
    "path": "../../../etc/passwd",
    "dots": "..",
    "absolute": "/etc/shadow",
    "substitution": "${parameters.x} ${run.id} $${item}",
    "shell": "; rm -rf \"$HOME\" `id` $(id) && 'x' | > < * ? ~ ! #",
    "dash": "--help",
    "quotes": "'\"\\'\\\"",
    "spaces": "  two  spaces\tand a tab ",
    "lines": "one\ntwo\r\nthree\x0b\x0c\x85\u2028",
    "escape": "\x1b]0;title\x07\x1b[2J\x9b31m\x08\x7f",
    "template": "{{ 7 * 7 }} {% raw %} %s %(x)s {0} %00",
    "sql": "'); DROP TABLE runs; --",
    "metrics": 'a"} 1\nup{b="c\\',
    "csv": '=cmd|"/C calc"!A0,;"',
    "long": "x" * 5000,
}
"""What a database and a program can hold."""

UNSTORABLE = {"nul": "a\0b", "half a character": "a\ud800b"}
"""What neither can: refused in requests, replaced where it comes from a program."""

NAMES = {
    name: text.replace("/", "\u2044").encode()[:200].decode(errors="ignore")
    for name, text in WORDS.items()
    if name != "dots"
} | {"longest": "n" * 255}
"""What a file system takes as the name of a file."""
