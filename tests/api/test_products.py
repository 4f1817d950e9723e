"""Products: metadata, content, lineage."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.lifecycle.models import NewProduct, WorkItem
from tests.api.rest import CHAIN, Hand, Rest


def made(path: str, content: bytes = b"", **more: Any) -> NewProduct:
    return NewProduct(
        name=more.pop("name", path),
        type=more.pop("type", "SCIENCE"),
        path=path,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        **more,
    )


class Place:
    """A completed step run, and its output directory."""

    def __init__(self, rest: Rest, hand: Hand, base_dir: Path) -> None:
        self.rest, self._hand = rest, hand
        rest.run()
        (self.item,) = hand.claim()
        self.output = base_dir / "one" / str(self.item.run.run_id) / "only" / "main" / "attempt-1" / "output"
        self.output.mkdir(parents=True)

    def publish(self, *products: NewProduct) -> dict[str, UUID]:
        self._hand.complete(self.item, *products)
        return self._hand.products(self.item.step_run_id)

    def content(self, product_id: UUID, **headers: str) -> Any:
        return self.rest.send("GET", f"/products/{product_id}/content", headers=headers)


@pytest.fixture
def place(rest: Rest, hand: Hand, base_dir: Path) -> Place:
    return Place(rest, hand, base_dir)


def test_a_product_and_its_content(place: Place) -> None:
    picture = bytes(range(256)) * 9000
    (place.output / "plots").mkdir()
    (place.output / "plots" / "mäp 1.png").write_bytes(picture)
    (place.output / "page.html").write_text("<script>alert(1)</script>")
    ids = place.publish(
        made("plots/mäp 1.png", picture, type="PLOT", metadata={"beam": 1.5}),
        made("page.html", b"<script>alert(1)</script>", type="INTERMEDIATE"),
    )
    found = place.rest.get(f"/products/{ids['plots/mäp 1.png']}")
    assert (found["type"], found["size"], found["metadata"]) == ("PLOT", len(picture), {"beam": 1.5})
    assert (found["pipeline"], found["step"], found["key"], found["attempt"]) == ("one", "only", "main", 1)
    listed = place.rest.get(f"/step-runs/{place.item.step_run_id}/products")["items"]
    assert [each["name"] for each in listed] == ["page.html", "plots/mäp 1.png"]
    assert found in listed

    answer = place.content(ids["plots/mäp 1.png"])
    assert (answer.status_code, answer.content) == (200, picture)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(picture))
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''m%C3%A4p%201.png"
    assert place.content(ids["plots/mäp 1.png"], **{"If-None-Match": answer.headers["etag"]}).status_code == 304

    page = place.content(ids["page.html"])
    assert page.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=3-5", 206, slice(3, 6)),
        ("bytes=8-99", 206, slice(8, None)),
        ("bytes=-4", 206, slice(-4, None)),
        ("bytes=-99", 206, slice(0, None)),
        ("bytes=10-", 416, slice(0, 0)),
        (f"bytes=2-{10**30}", 206, slice(2, None)),
        (f"bytes=-{10**30}", 206, slice(0, None)),
        (f"bytes={10**30}-", 416, slice(0, 0)),
        (f"bytes={'0' * 3000}3-5", 206, slice(3, 6)),
        (f"bytes={10**30}-{10**31}", 416, slice(0, 0)),
        (f"bytes={10**31}-{10**30}", 200, slice(0, None)),
        ("Bytes=3-5", 206, slice(3, 6)),
        ("bytes=5-3", 200, slice(0, None)),
        ("bytes=0-1,3-4", 200, slice(0, None)),
        ("bytes=-", 200, slice(0, None)),
        ("lines=1-2", 200, slice(0, None)),
    ],
)
def test_a_part_of_a_file(place: Place, wanted: str, status: int, part: slice) -> None:
    content = b"0123456789"
    (place.output / "x").write_bytes(content)
    answer = place.content(product := place.publish(made("x", content))["x"], Range=wanted)
    if status == 416:
        place.rest.refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */10"
    else:
        assert (answer.status_code, answer.content) == (status, content[part])
    head = place.rest.send("HEAD", f"/products/{product}/content", headers={"Range": wanted})
    assert (head.status_code, head.content) == (status, b"")
    assert head.headers["etag"] == answer.headers["etag"]


def test_a_part_is_sent_only_of_the_version_that_the_client_has(place: Place) -> None:
    (place.output / "x").write_bytes(content := b"0123456789")
    product = place.publish(made("x", content))["x"]
    etag = place.content(product).headers["etag"]
    for known, status in (
        (etag, 206),
        (f"W/{etag}", 200),
        ('"another"', 200),
        ("Mon, 30 Nov 2026 10:00:00 GMT", 200),
        (f'{etag}, "another"', 200),
    ):
        answer = place.content(product, Range="bytes=3-5", **{"If-Range": known})
        assert (answer.status_code, answer.content) == (status, content[3:6] if status == 206 else content), known
        beyond = place.content(product, Range="bytes=99-", **{"If-Range": known})
        assert beyond.status_code == (416 if status == 206 else 200), known
    assert place.content(product, **{"If-Range": etag}).status_code == 200
    assert place.content(product, **{"If-None-Match": "*"}).status_code == 304
    assert place.content(product, **{"If-None-Match": f'W/{etag}, "another"'}).status_code == 304


def test_head_answers_like_get_without_the_body(place: Place) -> None:
    (place.output / "x").write_bytes(b"0123456789")
    (place.output / "cube").mkdir()
    ids = place.publish(made("x", b"0123456789"), made("cube", is_directory=True, file_count=0))
    paths = [f"/products/{each}{part}" for each in ids.values() for part in ("", "/lineage", "/content")]
    for path in (*paths, "/runs", f"/products/{uuid4()}", f"/step-runs/{place.item.step_run_id}/log?follow=true"):
        get, head = (place.rest.send(method, path) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers.get("content-length") == get.headers.get("content-length")
    place.rest.refused(place.rest.send("GET", "/products", headers={}), 404, "not_found")
    assert place.rest.send("HEAD", f"/runs/{uuid4()}/cancel").status_code == 405


def test_products_of_a_run(rest: Rest, hand: Hand) -> None:
    run_id = rest.run({**CHAIN, "steps": CHAIN["steps"][:1]}, parameters={"scans": ["scan_1", "scan_2", "dark"]})["id"]
    for item in hand.claim(3):
        hand.complete(item, made("map.fits"), made("log.txt", type="LOG"))
    step = CHAIN["steps"][0]["name"]

    def keys(**query: str) -> list[str]:
        items = rest.get(f"/runs/{run_id}/products", **query)["items"]
        return sorted(f"{each['step']}/{each['key']}/{each['name']}" for each in items)

    assert len(keys()) == 6
    assert keys(key="scan_?", type="SCIENCE") == [f"{step}/scan_1/map.fits", f"{step}/scan_2/map.fits"]
    assert keys(key="scan%") == keys(step="other") == []
    first = rest.get(f"/runs/{run_id}/products", limit=4)
    rest_of_them = rest.get(f"/runs/{run_id}/products", cursor=first["next_cursor"])
    assert len({each["id"] for each in first["items"] + rest_of_them["items"]}) == 6
    rest.refused(rest.send("GET", f"/runs/{uuid4()}/products"), 404, "not_found")
    rest.refused(rest.send("GET", f"/runs/{run_id}/products", params={"type": "MAP"}), 422, "invalid", "type")


def test_a_directory_comes_as_a_tar_archive(place: Place, tmp_path: Path) -> None:
    tree = place.output / "cube"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "data.bin").write_bytes(b"x" * 1000)
    (tree / "empty").touch()
    (tree / ("long name " * 20)).write_text("é")
    os.symlink("deep/er/data.bin", tree / "link")
    os.symlink("/etc/passwd", tree / "out")
    os.mkfifo(tree / "pipe")
    ids = place.publish(made("cube", is_directory=True, file_count=3))
    answer = place.content(ids["cube"])
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''cube.tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        names = sorted(archive.getnames())
        archive.extractall(tmp_path / "extracted", filter="data")
    assert names == sorted(
        ["cube", "cube/deep", "cube/deep/er", "cube/deep/er/data.bin", "cube/empty", "cube/link",
         "cube/" + "long name " * 20]
    )  # fmt: skip
    assert (tmp_path / "extracted" / "cube" / "link").read_bytes() == b"x" * 1000


def test_nothing_leads_out_of_the_output_directory(place: Place) -> None:
    secret = place.output.parent / "config"
    secret.mkdir()
    (secret / "secret").write_text("secret")
    os.symlink("../config", place.output / "way")
    os.symlink("../config/secret", place.output / "file")
    (place.output / "dir").mkdir()
    ids = place.publish(
        made("way/secret", b"secret"),
        made("file", b"secret"),
        made("way", is_directory=True),
        made("../config/secret", b"secret"),
        made("/etc/hostname", b"x"),
        made("dir/../../config/secret", b"secret"),
        made("dir", b"x"),
        made("gone", b"x"),
    )
    for name, product_id in ids.items():
        place.rest.refused(place.content(product_id), 404, "not_found")
        assert "secret" not in place.content(product_id).text.replace(name, ""), name


def test_a_changed_file_is_not_served(place: Place) -> None:
    (place.output / "data").write_bytes(b"longer than it was")
    ids = place.publish(made("data", b"short"))
    problem = place.rest.refused(place.content(ids["data"]), 404, "not_found")
    assert {"18", "5"} <= set(problem["detail"].split())


def test_invisible_files_give_503(place: Place) -> None:
    ids = place.publish(made("data", b"x"))
    place.output.rmdir()
    place.output.parents[3].rename(place.output.parents[4] / "elsewhere")
    answer = place.content(ids["data"])
    place.rest.refused(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_lineage(rest: Rest, hand: Hand) -> None:
    run = rest.run(CHAIN, parameters={"scans": [1, 2]})

    def step(item: WorkItem, *products: NewProduct) -> dict[str, UUID]:
        hand.complete(item, *products)
        return hand.products(item.step_run_id)

    firsts = {item.key: step(item, made("raw"), made("log", type="LOG")) for item in hand.claim(2)}
    seconds = {}
    for item in hand.claim(2):
        parents = [firsts["1"]["raw"]] if item.key == "1" else []
        seconds[item.key] = step(item, made("cal", parents=parents))
    (last,) = hand.claim(1)
    top = step(last, made("map"))["map"]

    found = rest.get(f"/products/{top}/lineage")
    assert found["product"]["name"] == "map"
    before = [seconds["1"]["cal"], seconds["2"]["cal"], firsts["1"]["raw"], firsts["2"]["raw"], firsts["2"]["log"]]
    assert {each["id"] for each in found["ancestors"]} == set(map(str, before))
    assert found["descendants"] == []
    edges = {(edge["parent"], edge["child"]): edge["declared"] for edge in found["edges"]}
    assert edges[str(firsts["1"]["raw"]), str(seconds["1"]["cal"])] is True
    assert edges[str(firsts["2"]["raw"]), str(seconds["2"]["cal"])] is False
    assert edges[str(seconds["1"]["cal"]), str(top)] is False
    assert len(edges) == 5
    assert found["truncated"] is False

    upwards = rest.get(f"/products/{firsts['1']['raw']}/lineage")
    assert {each["name"] for each in upwards["descendants"]} == {"cal", "map"}
    assert upwards["ancestors"] == []
    assert rest.get(f"/products/{firsts['1']['log']}/lineage")["descendants"] == []
    assert rest.get(f"/runs/{run['id']}")["status"] == "COMPLETED"


def test_a_wide_lineage_is_truncated(rest: Rest, hand: Hand) -> None:
    rest.run(CHAIN, parameters={"scans": list(range(3))})
    for item in hand.claim(3):
        hand.complete(item, *(made(f"{number:04}") for number in range(500)))
    for item in hand.claim(3):
        hand.complete(item, made("cal"))
    (last,) = hand.claim(1)
    hand.complete(last, made("map"))
    found = rest.get(f"/products/{hand.products(last.step_run_id)['map']}/lineage")
    assert found["truncated"] is True
    assert len(found["ancestors"]) == 1000
