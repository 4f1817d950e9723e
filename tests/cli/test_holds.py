"""`ccat-wm pause`, `resume`, `holds` and `project`."""

from __future__ import annotations

from tests.cli.commands import answer, invoke
from tests.cli.conftest import Deployment


def test_a_pause_is_shown_until_it_is_resumed(deployment: Deployment) -> None:
    env = deployment.env
    paused = invoke("pause", "backend", "noop", "--why", "maintenance", "--until", "+2h", "--drain", env=env)
    assert (paused.exit_code, paused.stderr) == (0, "")
    assert "the backend noop is drained by" in paused.stdout
    (found,) = answer("holds", env=env)
    assert (found["kind"], found["name"], found["mode"], found["why"]) == ("backend", "noop", "drain", "maintenance")
    assert "maintenance" in invoke("holds", "--project", "elsewhere", env=env).stdout
    assert invoke("resume", "backend", "noop", env=env).stdout == "the backend noop goes on\n"
    assert invoke("holds", env=env).stderr == "Nothing is paused.\n"


def test_wrong_pauses_say_what_is_wrong(deployment: Deployment) -> None:
    for arguments, word in (
        (("pause", "service"), "--why"),
        (("pause", "service", "all", "--why", "x"), "no name"),
        (("pause", "pipeline", "--why", "x"), "name of the pipeline"),
        (("pause", "service", "--why", "x", "--until", "2020-01-31T12:00:00Z"), "until: must be in the future"),
        (("resume", "service"), "is not paused"),
    ):
        refused = invoke(*arguments, env=deployment.env)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert word in refused.stderr


def test_the_limits_of_a_project_change_one_by_one(deployment: Deployment) -> None:
    env = deployment.env
    made = invoke("project", "set", "survey", "--weight", "3", "--max-live", "500", env=env)
    assert "made project survey" in made.stderr
    assert "max_live=500" in invoke("audit", "--object", "projects/survey", "--since", "1h", env=env).stdout
    assert "change_project?" in invoke("audit", "--action", "change_projekt", env=env).stderr
    assert "did you mean survey?" in invoke("project", "set", "suvrey", "--weight", "3", env=env).stderr
    assert invoke("project", "set", "survey", "--weight", "3", env=env).stderr == ""
    changed = answer("project", "set", "survey", "--max-cpus", "20", "--max-live", "none", env=env)
    assert (changed["weight"], changed["max_live"], changed["max_cpus"]) == (3, None, 20)
    assert "survey" in invoke("project", "list", env=env).stdout
    refused = invoke("project", "set", "survey", "--max-live", "many", env=env)
    assert (refused.exit_code, "neither a number" in refused.stderr) == (2, True)


def test_a_limit_until_a_time_is_listed_and_ended(deployment: Deployment) -> None:
    env = deployment.env
    invoke("project", "set", "evening", "--max-live", "5", env=env)
    changed = answer("project", "set", "evening", "--max-live", "9", "--until", "+2h", "--why", "a campaign", env=env)
    assert changed["max_live"] == 9
    (override,) = answer("overrides", env=env)
    assert "a campaign; then it is 5 again" in override["text"]
    assert "a campaign" in invoke("overrides", "--project", "evening", env=env).stdout
    assert answer("overrides", "--project", "elsewhere", env=env) == []
    assert invoke("overrides", "end", str(override["id"]), env=env).stdout.startswith("ended: max_live of the project")
    assert invoke("overrides", env=env).stderr == "Nothing is changed until a certain time.\n"
    refused = invoke("project", "set", "evening", "--max-live", "9", "--until", "2020-01-31T12:00:00Z", env=env)
    assert (refused.exit_code, "until: must be in the future" in refused.stderr) == (2, True)
