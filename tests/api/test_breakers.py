"""Circuit breakers over REST."""

from __future__ import annotations

from uuid import uuid4

from tests.api.rest import Hand, Rest


def test_an_open_breaker_is_listed_with_what_it_holds_back(rest: Rest, hand: Hand) -> None:
    assert rest.get("/breakers") == {"items": [], "next_cursor": None}
    breaker_id = hand.open_breaker()
    (found,) = rest.get("/breakers")["items"]
    assert (found["id"], found["state"], found["pipeline"], found["step"]) == (breaker_id, "open", "fan", "out")
    assert (found["image"], found["held_back"], found["way"]) == ("a.sif", 7, "program_failed, exit code 3")
    assert found["reason_text"].startswith("3 of the last 3 step runs of fan/out with the image a.sif failed the same")
    run = rest.get(f"/runs/{rest.get('/runs')['items'][0]['id']}")
    waits = {each["waiting_for"] for each in run["step_runs"] if each["status"] == "PENDING"}
    assert len(waits) == 1
    assert waits.pop().startswith(f"held back: {found['reason_text']}; one of them is launched as a probe after ")
    (event,) = rest.get(f"/breakers/{breaker_id}/events")["items"]
    assert (event["event"], event["text"]) == ("opened", found["reason_text"])


def test_a_release_makes_all_step_runs_ready(rest: Rest, hand: Hand) -> None:
    breaker_id = hand.open_breaker()
    assert hand.claim(10) == []
    released = rest.post(f"/breakers/{breaker_id}/release", status=200)
    assert (released["id"], released["held_back"]) == (breaker_id, 7)
    assert rest.get("/breakers")["items"] == []
    assert [each["event"] for each in rest.items(f"/breakers/{breaker_id}/events", 1)] == ["opened", "released"]
    assert len(hand.claim(10)) == 7
    rest.refused(rest.send("POST", f"/breakers/{breaker_id}/release"), 404, "not_found")


def test_counting_breakers_are_listed_on_request(rest: Rest, hand: Hand) -> None:
    breaker_id = hand.open_breaker()
    hand.execute(
        "UPDATE breakers SET opened_at = NULL, failure_signature = NULL, reason_text = NULL, probe_at = NULL"
        " WHERE breaker_key = :id",
        id=breaker_id,
    )
    assert rest.get("/breakers")["items"] == []
    (found,) = rest.get("/breakers", counting=True)["items"]
    assert (found["state"], found["failures"], found["held_back"]) == ("counting", 3, 0)


def test_lists_come_in_pages(rest: Rest, hand: Hand) -> None:
    hand.open_breaker()
    for number in range(3):
        hand.execute(
            "INSERT INTO breakers (breaker_key, pipeline, step, opened_at, failure_signature, reason_text)"
            " SELECT :id, pipeline, step || :n, opened_at, failure_signature, reason_text FROM breakers LIMIT 1",
            id=uuid4(),
            n=str(number),
        )
    assert len({each["id"] for each in rest.items("/breakers", 1)}) == 4


def test_unknown_and_malformed_ids_are_refused(rest: Rest) -> None:
    rest.refused(rest.send("GET", f"/breakers/{uuid4()}/events"), 404, "not_found")
    rest.refused(rest.send("POST", f"/breakers/{uuid4()}/release"), 404, "not_found")
    rest.refused(rest.send("POST", "/breakers/one/release"), 422, "invalid")
    rest.refused(rest.send("GET", "/breakers?state=open"), 422, "invalid", "state")
    rest.refused(rest.send("GET", "/breakers?cursor=x"), 400, "bad_cursor")
