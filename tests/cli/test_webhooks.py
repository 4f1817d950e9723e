"""`ccat-wm webhook`."""

from __future__ import annotations

from uuid import uuid4

from tests.cli.commands import answer, invoke, refused, variables
from tests.cli.conftest import Deployment
from tests.cli.fake_api import fake_api

URL = "https://target.invalid/hook"
DELIVERY = {
    "id": "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c", "webhook_id": str(uuid4()), "event": "7", "status": "DEAD",
    "type": "ccat.wm.run.finished", "attempts": 12, "http_status": 503, "problem": "the target answered 503",
    "created_at": "2026-01-31T12:00:00Z", "next_at": "2026-01-31T12:00:00Z", "finished_at": "2026-02-01T12:00:00Z",
}  # fmt: skip


def test_a_webhook_is_created_listed_and_deleted(deployment: Deployment) -> None:
    env = deployment.env
    made = invoke("webhook", "create", URL, "--type", "ccat.wm.run.*", "--project", "default", env=env)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("whsec_")
    assert made.stdout.strip() not in made.stderr
    (listed,) = answer("webhook", "list", env=env)
    assert (listed["url"], listed["types"], listed["project"]) == (URL, ["ccat.wm.run.*"], "default")
    shown = invoke("webhook", "list", "--project", "default", env=env).stdout
    for word in (listed["id"], URL, "ccat.wm.run.*", "project=default"):
        assert word in shown
    assert answer("webhook", "deliveries", listed["id"], "--status", "dead", env=env) == []
    assert answer("webhook", "redeliver", listed["id"], env=env) == {"deliveries": 0}
    sent = answer("webhook", "test", listed["id"], env=env)
    assert sent["type"] == "ccat.wm.webhook.test"
    assert listed["id"] in invoke("webhook", "test", listed["id"], env=env).stdout
    assert answer("webhook", "delete", listed["id"], env=env)["url"] == URL
    assert invoke("webhook", "list", env=env).stdout == ""


def test_what_cannot_be_a_webhook_is_refused(deployment: Deployment) -> None:
    env = deployment.env
    assert "url" in refused("webhook", "create", "ftp://example.org", env=env)
    assert "types" in refused("webhook", "create", URL, "--type", "nonsense", env=env)
    assert "filter.pipeline" in refused("webhook", "create", URL, "--pipeline", "No Name", env=env)
    assert "there is no run" in refused("webhook", "create", URL, "--run", str(uuid4()), env=env)
    for command in ("delete", "deliveries", "redeliver", "test"):
        for unknown in (str(uuid4()), "nonsense"):
            refused("webhook", command, unknown, env=env)


def test_deliveries_are_a_table() -> None:
    with fake_api({"items": [DELIVERY], "next_cursor": None}) as url:
        shown = invoke("webhook", "deliveries", "x", env=variables() | {"CCAT_WM_URL": url}).stdout
    for word in (DELIVERY["id"], "ccat.wm.run.finished", "DEAD", "12", "503", "2026-01-31 12:00:00"):
        assert str(word) in shown
    with fake_api(DELIVERY) as url:
        again = invoke("webhook", "redeliver", "x", str(DELIVERY["id"]), env=variables() | {"CCAT_WM_URL": url})
    assert again.stdout == "sent again: 1\n"
