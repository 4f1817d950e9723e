"""Keys of step runs: unique, safe, readable, and the same for the same item."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.definition.keys import first_duplicate, item_keys, keys_of_parts
from ccat_workflow_manager.json_values import canonical_json

SAFE_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")

json_items = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
different_items = st.lists(json_items | st.text(alphabet="aA/.- \u00e9"), unique_by=canonical_json)


@given(different_items)
def test_keys_of_any_items_are_unique_and_safe(items: list[Any]) -> None:
    keys = item_keys(items)
    assert len(set(keys)) == len(items)
    for key in keys:
        assert SAFE_KEY.fullmatch(key), key


@given(st.lists(st.text(), unique=True), st.randoms())
def test_the_key_of_a_text_depends_on_nothing_else(items: list[str], random: Any) -> None:
    alone = {item: item_keys([item])[0] for item in items}
    random.shuffle(items)
    assert item_keys(items) == [alone[item] for item in items]


@given(different_items)
def test_keys_do_not_depend_on_the_order(items: list[Any]) -> None:
    assert item_keys(items[::-1]) == item_keys(items)[::-1]


@given(st.lists(st.text(), unique=True, min_size=1))
def test_items_made_to_look_like_keys_collide_with_none(items: list[str]) -> None:
    items = list(dict.fromkeys([*items, *item_keys(items)]))
    assert len(set(item_keys(items))) == len(items)


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ("scan-12.fits", "scan-12.fits"),
        ("a" * 80, "a" * 80),
        (3, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (None, "null"),
        ("W51/IRS 2", r"W51_IRS_2--[0-9a-f]{12}"),
        ("\u010cerenkov", r"Cerenkov--[0-9a-f]{12}"),
        ("\u5929", r"item--[0-9a-f]{12}"),
        ("", r"item--[0-9a-f]{12}"),
        ("..", r"item--[0-9a-f]{12}"),
        (".hidden", r"hidden--[0-9a-f]{12}"),
        ("-rf", r"rf--[0-9a-f]{12}"),
        ("a\n", r"a_--[0-9a-f]{12}|a--[0-9a-f]{12}"),
        (-5, r"5--[0-9a-f]{12}"),
        ("x" * 81, r"x{66}--[0-9a-f]{12}"),
        ({"scan": 5}, r"_?scan_5--[0-9a-f]{12}"),
        ("a--0123456789ab", r"a--0123456789ab--[0-9a-f]{12}"),
    ],
)
def test_keys_stay_readable(item: Any, key: str) -> None:
    assert re.fullmatch(key, item_keys([item])[0])


HASH = "--[0-9a-f]{12}"


@pytest.mark.parametrize(
    ("paths", "keys"),
    [
        (["/data/raw/2026-11-27/scan 1.fits", "/data/raw/2026-11-27/scan_2.fits"], [f"scan_1{HASH}", "scan_2"]),
        (["/data/raw/2026-11-27/m\u00f6ssbauer.fits.gz"], [f"mossbauer{HASH}"]),
        (["/data/" + "deep/" * 30 + "scan 1.fits"], [f"scan_1{HASH}"]),
        (["/data/raw/n1/scan.fits", "/data/raw/n2/scan.fits"], [f"n1_scan{HASH}", f"n2_scan{HASH}"]),
        (["/", "//", "/..."], [f"item{HASH}"] * 3),
    ],
)
def test_the_key_of_a_path_is_the_part_that_tells_it_from_others(paths: list[str], keys: list[str]) -> None:
    found = item_keys(paths)
    assert all(re.fullmatch(wanted, key) for wanted, key in zip(keys, found, strict=True)), found
    assert found == [item_keys(paths)[number] for number in range(len(paths))]


def test_the_key_of_a_match_is_what_the_pattern_leaves_open() -> None:
    parts = ["n1/scan 1", "n1/scan_2", "n2/\u00f6", "n1_scan_2"]
    found = keys_of_parts(parts, [f"/data/{part}.fits" for part in parts])
    wanted = [f"n1_scan_1{HASH}", f"n1_scan_2{HASH}", f"n2_o{HASH}", f"n1_scan_2{HASH}"]
    assert all(re.fullmatch(key, each) for key, each in zip(wanted, found, strict=True)), found
    assert keys_of_parts([*parts[:1], "n1/3"], ["/data/a", "/data/b"])[1] == "n1_3"


def test_a_number_gives_way_to_the_text_of_the_same_name() -> None:
    number, text = item_keys([3, "3"])
    assert text == "3"
    assert re.fullmatch(r"3--[0-9a-f]{12}", number)


def test_first_duplicate() -> None:
    assert first_duplicate([1, 1.0, True, "1", [1], {"a": 1, "b": 2}]) is None
    assert first_duplicate(["a", {"a": 1, "b": 2}, {"b": 2, "a": 1}]) == 2
