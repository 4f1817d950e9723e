"""Pipeline definitions as text: YAML or JSON, read so that no input can harm the reading process.

YAML is read by the rules of version 1.2, where `on` and `no` are plain words, `010` is ten and `12:30` is text. By
those of 1.1, which the library follows, the key `on` of a retry policy would become `true`, and a date among the
items something that is not JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import JSON, duplicate_name
from ccat_workflow_manager.limits import limits

MAX_TEXT = 4 * 1024 * 1024
MAX_YAML = 512 * 1024
"""Reading YAML takes ten times as long as JSON."""

_TAG = "tag:yaml.org,2002:"


def load_text(text: str) -> JSON:
    """The value of a YAML or JSON text. Raises Invalid with line and column if it has none."""
    if len(text) > MAX_TEXT:
        raise _invalid("", f"the text is longer than {MAX_TEXT} characters")
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError):
            pass  # it may still be YAML in flow style, and if not, YAML says where it goes wrong
    if len(text) > MAX_YAML:
        raise _invalid("", f"the text is longer than {MAX_YAML} characters; only JSON may be longer")
    try:
        return _load_yaml(text)
    except ReaderError as error:
        at = error.position if isinstance(error.position, int) else 0
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        character = error.character if isinstance(error.character, int) else ord(error.character)
        raise _invalid(_at(line, column), f"the character U+{character:04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _at(mark.line + 1, mark.column + 1) if mark else ""
        problem = error.problem or "this is not YAML"
        raise _invalid(where, f"{error.context}, {problem}" if error.context else problem) from None


def with_on(data: Any) -> tuple[Any, list[Fault]]:
    """Rename the key `true` of retry policies back to `on`, which YAML 1.1 reads as true.

    Most libraries read YAML 1.1, so definitions that were read by one and sent as JSON are common. Returns the
    definition and the faults.
    """
    if not isinstance(data, dict):
        return data, []
    faults: list[Fault] = []
    renamed = dict(data)
    if "defaults" in data:
        renamed["defaults"] = _with_on(data["defaults"], "defaults.retry.on", faults)
    if isinstance(data.get("steps"), list):
        renamed["steps"] = [_with_on(step, f"steps[{n}].retry.on", faults) for n, step in enumerate(data["steps"])]
    return renamed, faults


def _with_on(owner: Any, path: str, faults: list[Fault]) -> Any:
    retry = owner.get("retry") if isinstance(owner, dict) else None
    if not isinstance(retry, dict):
        return owner
    renamed: dict[Any, Any] = {}
    for name, value in retry.items():
        known = "on" if name is True or name == "true" else name
        if known in renamed:
            faults.append(Fault(path, "is given twice: `true` is what a reader of YAML 1.1 makes of `on`"))
        renamed[known] = value
    return {**owner, "retry": renamed}


def _load_yaml(text: str) -> JSON:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise _invalid("", "the text is empty")
        _expanded_size(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _invalid("", f"the key {json.dumps(duplicate_name(pairs))} is given twice in one mapping")
    return result


def _expanded_size(node: Node, known: dict[int, int]) -> int:
    """Number of values after expansion of all aliases: a few bytes may expand to billions of values."""
    if id(node) in known:
        size = known[id(node)]
        if size == 0:
            raise ConstructorError(None, None, "an alias refers to a value that contains the alias", node.start_mark)
        return size
    known[id(node)] = 0
    size = 1
    if isinstance(node, SequenceNode):
        size += sum(_expanded_size(inner, known) for inner in node.value)
    elif isinstance(node, MappingNode):
        size += sum(_expanded_size(key, known) + _expanded_size(inner, known) for key, inner in node.value)
    if size > (most := limits().json_values):
        message = f"with its aliases this is more than {most} values, the limit JSON_VALUES"
        raise ConstructorError(None, None, message, node.start_mark)
    known[id(node)] = size
    return size


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2 and no others, without duplicate keys, without deep nesting."""

    # Replaces the class variables of the base class, so that none of its resolvers and constructors remain.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - declared like this by the base class
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        if self._depth > (deepest := 2 * limits().json_depth):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ConstructorError(None, None, f"nested more than {deepest} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def mapping(self, node: MappingNode) -> dict[Hashable, Any]:
        if not isinstance(node, MappingNode):
            raise self.mismatch(node, "a mapping")
        given: set[str] = set()
        for key, _ in node.value:
            name = self.key(key)
            if name in given:
                raise ConstructorError(None, None, f"the key {json.dumps(name)} is given twice", key.start_mark)
            given.add(name)
        self.flatten_mapping(node)
        return {self.key(key): self.construct_object(inner, deep=True) for key, inner in node.value}

    def key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            raise ConstructorError(None, None, "a key must be plain text", node.start_mark)
        return str(node.value)

    def sequence(self, node: SequenceNode) -> list[Any]:
        if not isinstance(node, SequenceNode):
            raise self.mismatch(node, "a list")
        return [self.construct_object(inner, deep=True) for inner in node.value]

    def text(self, node: ScalarNode) -> str:
        return str(self.construct_scalar(node))

    def null(self, node: ScalarNode) -> None:
        return None

    def boolean(self, node: ScalarNode) -> bool:
        word = self.text(node).lower()
        if word not in ("true", "false"):
            raise self.mismatch(node, "a boolean")
        return word == "true"

    def integer(self, node: ScalarNode) -> int:
        word = self.text(node)
        try:
            return int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
        except ValueError:
            raise self.mismatch(node, "a whole number") from None

    def number(self, node: ScalarNode) -> float:
        word = self.text(node).lower()
        try:
            return float(word.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self.mismatch(node, "a number") from None

    def unknown_tag(self, node: Node) -> None:
        raise ConstructorError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)

    def mismatch(self, node: Node, wanted: str) -> ConstructorError:
        what = repr(node.value[:40]) if isinstance(node, ScalarNode) else "this"
        return ConstructorError(None, None, f"{what} cannot be read as {wanted}", node.start_mark)


def _register() -> None:
    constructors: dict[str, Any] = {
        "map": _Loader.mapping,
        "seq": _Loader.sequence,
        "str": _Loader.text,
        "null": _Loader.null,
        "bool": _Loader.boolean,
        "int": _Loader.integer,
        "float": _Loader.number,
    }
    for tag, constructor in constructors.items():
        _Loader.add_constructor(_TAG + tag, constructor)
    _Loader.add_constructor(None, _Loader.unknown_tag)
    plain: list[tuple[str, str, list[str] | None]] = [
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
        ("merge", r"<<", ["<"]),
    ]
    for tag, pattern, first in plain:
        _Loader.add_implicit_resolver(_TAG + tag, re.compile(rf"^(?:{pattern})$"), first)


_register()


def _at(line: int, column: int) -> str:
    return f"line {line}, column {column}"


def _invalid(path: str, message: str) -> Invalid:
    return Invalid(faults=[Fault(path, message)])
