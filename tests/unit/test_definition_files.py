"""Files of a definition: what is accepted, what is refused, and what the definition keeps of them."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from ccat_workflow_manager.definition.compiled import compile_pipeline
from ccat_workflow_manager.definition.files import MAX_FILE_BYTES
from ccat_workflow_manager.definition.spec import canonical, parse_pipeline
from ccat_workflow_manager.errors import Invalid

SCRIPT = "print('é')\n"
DIGEST = sha256(SCRIPT.encode()).hexdigest()
STORED = {"sha256": DIGEST, "size": len(SCRIPT.encode())}


def definition(files: Any = None, of_step: Any = None) -> dict[str, Any]:
    step = {"name": "s", "command": ["python", "/workflow/code/reduce.py"], "files": of_step or {}}
    return {"name": "p", "files": {} if files is None else files, "steps": [step]}


@pytest.mark.parametrize("form", [{"text": SCRIPT}, {"base64": b64encode(SCRIPT.encode()).decode()}, STORED])
def test_a_definition_keeps_the_checksum_in_whatever_form_the_file_is_given(form: dict[str, Any]) -> None:
    spec = parse_pipeline(definition({"reduce.py": form}))
    assert canonical(spec)["files"] == {"reduce.py": STORED}
    assert parse_pipeline(canonical(spec)).content_hash == spec.content_hash


def test_a_file_of_a_step_hides_one_of_the_pipeline() -> None:
    other = {"text": "other"}
    files = (
        compile_pipeline(parse_pipeline(definition({"a": other, "b": other}, {"a": {"text": SCRIPT}}))).steps[0].files
    )
    assert files == {"a": DIGEST, "b": sha256(b"other").hexdigest()}


def test_a_changed_file_is_another_program() -> None:
    programs = [compile_pipeline(parse_pipeline(definition({"a": {"text": text}}))).steps[0].program for text in "xy"]
    assert programs[0] != programs[1]


@pytest.mark.parametrize(
    ("files", "path", "problem"),
    [
        ({"reduce.py": "./reduce.py"}, 'files["reduce.py"]', "pipeline apply"),
        ({"reduce.py": 3}, 'files["reduce.py"]', "not a number"),
        ({"reduce.py": {}}, 'files["reduce.py"]', "must be"),
        ({"reduce.py": {"size": 3}}, 'files["reduce.py"].sha256', "required"),
        ({"reduce.py": {"text": "a", "base64": ""}}, 'files["reduce.py"]', "one of"),
        ({"reduce.py": {"text": 3}}, 'files["reduce.py"]', "string"),
        ({"reduce.py": {"base64": "?"}}, 'files["reduce.py"]', "base64"),
        ({"reduce.py": {"content": "a"}}, 'files["reduce.py"]', "one of"),
        ({"reduce.py": {**STORED, "sha256": "x"}}, 'files["reduce.py"].sha256', "64"),
        ({"reduce.py": {"text": "a" * (MAX_FILE_BYTES + 1)}}, 'files["reduce.py"]', str(MAX_FILE_BYTES)),
        ({"../x": {"text": ""}}, 'files["../x"]', ".."),
        ({"/x": {"text": ""}}, 'files["/x"]', "no name"),
        ({"a b": {"text": ""}}, 'files["a b"]', "no name"),
        ({"a": {"text": ""}, "a/b": {"text": ""}}, "files", "directory"),
        (
            {str(n): {"text": str(n) * MAX_FILE_BYTES} for n in range(1, 10)}
            | {"x": {"text": "x" * MAX_FILE_BYTES}, "y": {"text": "y"}},
            "files",
            "together",
        ),
    ],
)
def test_files_are_refused_with_their_path(files: Any, path: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_pipeline(definition(files))
    assert [fault.path for fault in caught.value.faults] == [path]
    assert problem in caught.value.faults[0].message
