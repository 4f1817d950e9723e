"""`ccat-wm token`, through the API and on the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import answer, invoke, refused, variables


@pytest.fixture
def on_host(migrated_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A service without any token yet."""
    return variables(DATABASE_URL=migrated_url, REDIS_URL=redis_url, DATA_DIR=tmp_path, AUTH_REQUIRED="true") | {
        "CCAT_WM_URL": "", "CCAT_WM_TOKEN": "",
    }  # fmt: skip


def test_the_first_token_is_made_on_the_host(on_host: dict[str, str]) -> None:
    made = invoke("token", "create", "--role", "admin", "--name", "first", env=on_host)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("ccatwm_")
    assert made.stdout.strip() not in made.stderr
    (listed,) = answer("token", "list", env=on_host)
    assert (listed["name"], listed["role"], listed["projects"]) == ("first", "admin", None)
    assert answer("token", "revoke", "first", env=on_host)["revoked_at"]
    assert "first" not in invoke("token", "list", env=on_host).stdout


def test_limits_of_a_token(on_host: dict[str, str]) -> None:
    more = ("--project", "night", "--project", "day", "--expires", "90d")
    made = answer("token", "create", "--role", "submitter", *more, env=on_host)
    assert (made["name"], made["projects"]) == ("submitter", ["day", "night"])
    assert made["expires_at"] > made["created_at"]
    assert "submitter" in refused("token", "create", "--role", "submitter", env=on_host)
    assert "expires_at" in refused("token", "create", "--role", "viewer", "--expires", "2020-01-01", env=on_host)
    assert "there is no token" in refused("token", "revoke", "nothing", env=on_host)
