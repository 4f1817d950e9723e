"""The data of the pages: runs in every state, hostile texts, a log that grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.lifecycle.models import NewProduct
from tests.api.rest import CHAIN, ONE, Hand
from tests.support.waiting import PATIENCE

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "\u202eright to left\u202c",
    "e\u0301\u0302 \U0001f52d",
    "long" * 40,
)


class Site:
    """One served deployment. The tests play its worker."""

    def __init__(self, url: str, context: Context) -> None:
        self.url = url
        self.context = context
        self.hand = Hand(context)
        self.client = httpx.Client(base_url=f"{url}/api/v1", timeout=PATIENCE)
        self.ids: dict[str, str] = {}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(method, path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def fill(self) -> None:
        self.call("PUT", "/pipelines/chain", CHAIN)
        run = self.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": ["a", "b", "c"]}})
        (done,) = self.hand.claim()
        self.hand.complete(done, NewProduct("map", "PLOT", "map.txt", 3, "0" * 64, metadata={"rms": HOSTILE[0]}))
        (failed,) = self.hand.claim()
        self.hand.fail(failed)
        (running,) = self.hand.claim()
        self.hand.submit(running)
        self.ids["run"] = run["id"]
        self.ids["failed"], self.ids["running"] = str(failed.step_run_id), str(running.step_run_id)
        self.ids["product"] = self.call("GET", f"/runs/{run['id']}/products")["items"][0]["id"]
        base = Path(self.context.settings.pipeline_base_dir)
        self.log = base / "chain" / run["id"] / "first" / running.key / "attempt-1" / "logs" / "stdout.log"
        self.log.parent.mkdir(parents=True)
        self.log.write_text("".join(f"\x1b[32mline {n}\x1b[0m\n" for n in range(1, 500)), encoding="utf-8")
        wide = self.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": list(range(250))}})
        self.ids["wide"] = wide["id"]
        self.call("POST", f"/runs/{wide['id']}/pause")
        self.call("POST", f"/step-runs/{wide['step_runs'][3]['id']}/cancel")
        for number, text in enumerate(HOSTILE):
            spec = {**ONE, "description": text}
            self.call("POST", "/runs", {"spec": spec, "labels": {f"note{number}": text[:100]}})
        self.hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES (:id, 'h', 1, '{noop}')", id=HOSTILE[0])
        self.hand.execute(
            "INSERT INTO backends (name, problem, problem_since) VALUES ('noop', :text, now())", text=HOSTILE[1]
        )

    def append(self, text: str) -> None:
        """The program writes to its log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text)
