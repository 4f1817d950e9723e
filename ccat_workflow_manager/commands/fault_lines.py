"""Where in a file the fault of a definition is: the line, and the name of the step."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

_PART = re.compile(r'\.?([A-Za-z0-9_$-]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')


def whereabouts(text: str, path: str) -> str:
    """`step grid, line 41` for the path of a fault in a YAML or JSON text; empty if it cannot be found."""
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return ""
    parts = parts_of(path)
    if node is None or not parts:
        return ""
    step = _step_name(node, parts)
    line = node.start_mark.line
    for part in parts:
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return ", ".join(filter(None, (f"step {step}" if step else "", f"line {line + 1}")))


def parts_of(path: str) -> list[str | int]:
    """The parts of a path such as `steps[1].environment["A B"]`."""
    return [
        json.loads(quoted) if quoted else int(index) if index else name for name, index, quoted in _PART.findall(path)
    ]


def _child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    """The line on which an entry of a mapping or a list begins, and its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == str(part):
                return key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def _step_name(root: yaml.Node, parts: list[str | int]) -> str:
    if parts[0] != "steps" or len(parts) < 2:
        return ""
    node: Any = root
    for part in (*parts[:2], "name"):
        found = _child(node, part)
        if found is None:
            return ""
        node = found[1]
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""
