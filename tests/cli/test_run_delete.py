"""`ccat-wm run delete` against a real deployment."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import answer, invoke, refused
from tests.support.fixtures_service import Service, sh
from tests.support.waiting import wait_until


def test_a_run_is_deleted_with_its_files(service: Service, tmp_path: Path) -> None:
    env = {"CCAT_WM_URL": f"http://127.0.0.1:{service.port}"}
    run_id = service.submit(sh('echo x > "$WORKFLOW_OUTPUT_DIR/a.txt"; mkdir -p "$WORKFLOW_WORKSPACE_DIR/deep"'))
    service.wait(run_id)
    root = service.attempt_dir(run_id, "only")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("run", "download", run_id, str(tmp_path / "file" / "x"), env=env)
    shown = invoke("run", "delete", run_id, "--dry-run", env=env)
    assert f"{run_id} of flow would be deleted: 1 step run, 1 product of 2 B" in shown.stdout
    assert answer("run", "delete", run_id, "--only", "workspaces", env=env)[0]["what"] == "workspaces"
    wait_until(lambda: not (root / "workspace").exists(), 30, "the workspace to go")
    assert (root / "output" / "a.txt").exists()
    assert "is being deleted" in invoke("run", "delete", run_id, env=env).stdout
    wait_until(lambda: service.client.get(f"/runs/{run_id}").status_code == 404, 30, "the run to go")
    assert not root.parents[2].exists()
    running = service.submit(sh("exec sleep 1000"))
    assert "is not over" in refused("run", "delete", running, "abcd", env=env)
    service.cancel(running)
