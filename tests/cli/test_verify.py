"""`ccat-wm verify`, on the database of this host."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.services.metrics import DoorbellMetrics
from ccat_workflow_manager.services.verify import Progress
from ccat_workflow_manager.services.verify_notes import Notes
from tests.cli.commands import answer, invoke, refused, variables
from tests.services.test_metrics import scrape, value


@pytest.fixture
def site(migrated_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return variables(DATABASE_URL=migrated_url, REDIS_URL=redis_url, DATA_DIR=tmp_path)


def test_a_healthy_service_is_verified(site: dict[str, str], redis_url: str) -> None:
    assert answer("verify", env=site) == {"runs": 0, "products": 0, "findings": [], "unchecked_backends": {}}
    text = scrape(DoorbellMetrics(Doorbell(redis_url)))
    assert value(text, "ccat_wm_verify_findings", kind="product") == 0
    assert invoke("verify", "--since", "7d", env=site).exit_code == 0
    assert "24h" in refused("verify", "--since", "yesterday", env=site)


def test_an_interrupted_verification_is_resumed_with_its_findings(site: dict[str, str], tmp_path: Path) -> None:
    assert "no verification was interrupted" in invoke("verify", "--resume", env=site).stderr
    notes = Notes(tmp_path / "verify.json", None, checksums=True, progress=Progress(500, 7, uuid4()))
    notes.findings.append(Finding("product", "products/x", "it is gone", "restore it"))
    notes.write()
    resumed = invoke("verify", "--resume", "--repair-plan", env=site)
    assert (resumed.exit_code, "restore it" in resumed.stdout) == (1, True)
    assert "500 runs and 7 products" in resumed.stderr
    assert not (tmp_path / "verify.json").exists()
