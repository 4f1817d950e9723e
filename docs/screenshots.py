"""Take the screenshots of the dashboard in docs/images: `make screenshots`, about a minute.

It starts a deployment in a temporary directory, runs the demo, pipelines that fail in several ways and a fan-out of
10,000, and photographs the pages in Chromium. With a directory as its argument it writes PNG files of every page, light
and dark and 390 px wide, to be put beside the design.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.demo import demo_pipeline, ensure_demo_image
from ccat_workflow_manager.execution import runtime
from ccat_workflow_manager.settings import load_settings
from ccat_workflow_manager.supervise import Deployment

IMAGES = Path(__file__).with_name("images")
CHROMIUM = "/usr/bin/chromium"
KEYS = 10_000
QUALITY = 82
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
_PATIENCE = 240.0
_FINISHED = ("COMPLETED", "FAILED", "CANCELLED")

_FLAG = """
import os, sys, time
array, attempt = sys.argv[1], os.environ["WORKFLOW_ATTEMPT"]
print(f"flag 1.4.0  night {sys.argv[2]}  array {array}  attempt {attempt}", flush=True)
for pixel in range(1, 61):
    rms = 0.17 + (pixel * 7919 % 97) / 1500
    if rms > 0.225:
        print(f"\\x1b[33mWARNING\\x1b[0m pixel {pixel:02}: rms {rms:.3f} K, {pixel * 13 % 7}.1 % flagged")
    else:
        print(f"pixel {pixel:02}  4,096 spectra  rms {rms:.3f} K  \\x1b[32mok\\x1b[0m", flush=True)
    if array == "B" and attempt == "1" and pixel == 17:
        sys.exit("\\x1b[31mthe reference of array B cannot be read: checksum of block 17\\x1b[0m")
    if array == "B":
        time.sleep(0 if pixel < 30 else 3)
"""


def _noop(name: str, after: tuple[str, ...] = (), delay: float = 1.0, outcome: str = "", **more: Any) -> dict[str, Any]:
    """A step that goes through every state and runs nothing."""
    extra = {"delay_seconds": delay, **({"outcome": outcome} if outcome else {})}
    resources = {"cpu": 2, "memory_gb": 4, "time_hours": 1, "extra": extra}
    step = {"name": name, "image": None, "command": ["true"], "backend": "noop", "resources": resources}
    return {**step, "depends_on": list(after), **more}


def _night(image: str | None) -> dict[str, Any]:
    """A step that fails once and is tried again; a step whose memory never suffices."""
    python = [sys.executable if image is None else "python3", "-S", "-c", _FLAG, "${item}", "${parameters.night}"]
    retry = {"max_attempts": 3, "on": ["program_failed"], "backoff_seconds": 1}
    small = {"cpu": 1, "memory_gb": 0.25, "time_hours": 0.1}
    names = {"type": "array", "title": "Arrays", "items": {"type": "string"}, "default": ["A", "B", "C"]}
    night = {"type": "string", "title": "Night", "default": "2026-11-27"}
    return {
        "name": "night-report",
        "description": "Flag one night of three arrays, and report",
        "parameters": {"type": "object", "properties": {"night": night, "arrays": names}},
        "steps": [
            {"name": "flag", "image": image, "command": python, "foreach": "${parameters.arrays}", "resources": small,
             "retry": retry},
            {**_noop("report"), "depends_on": ["flag"]},
        ],
    }  # fmt: skip


BEAM = {
    "name": "beam-fit",
    "description": "Fit the beam of every array to a planet",
    "parameters": {"type": "object", "properties": {"planet": {"type": "string", "default": "Uranus"}}},
    "steps": [
        _noop("read"),
        _noop("fit", ("read",), foreach=["A", "B", "C"], outcome="out_of_memory",
              retry={"max_attempts": 2, "backoff_seconds": 1}),
        _noop("report", ("fit",)),
    ],
}  # fmt: skip
NOISE = {
    "name": "detector-noise",
    "description": "Calibrate every detector of an array, and make one model of their noise",
    "parameters": {"type": "object", "properties": {"detectors": {"type": "array", "items": {"type": "string"}}}},
    "steps": [
        _noop("plan", delay=0.1),
        _noop("calibrate", ("plan",), foreach="${parameters.detectors}", delay=3),
        _noop("flag", ("calibrate",), foreach="${parameters.detectors}", delay=2),
        _noop("noise-model", ("flag",)),
    ],
}
POINTING = {
    "name": "pointing",
    "description": "Fit the pointing of every scan of a night",
    "parameters": {"type": "object", "properties": {"scans": {"type": "array", "items": {"type": "string"}}}},
    "steps": [
        _noop("fit", foreach="${parameters.scans}", delay=0.2, outcome="failed"),
        _noop("model", ("fit",)),
    ],
}


def _first(run: dict[str, Any], status: str) -> str:
    """The first step run of a run with this status."""
    return next((str(each["id"]) for each in run["step_runs"] if each["status"] == status), "")


class Stage:
    """A deployment, and the runs that the pictures show."""

    def __init__(self, deployment: Deployment, client: Client, image: str | None) -> None:
        self.deployment = deployment
        self.client = client
        self.image = image
        self.ids: dict[str, str] = {}

    def submit(self, pipeline: str, parameters: dict[str, Any], **more: Any) -> str:
        made = self.client.post("/runs", {"pipeline": pipeline, "parameters": parameters, **more})
        return str(made["id"])

    def until(self, run_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The run, once the condition holds."""
        limit = time.monotonic() + _PATIENCE
        while time.monotonic() < limit:
            run = self.client.run(run_id)
            if is_so(run):
                return dict(run)
            self.deployment.watch(0.2)
        raise SystemExit(f"run {run_id} did not come as far as its picture needs: {run['status']}")

    def finished(self, run_id: str) -> dict[str, Any]:
        return self.until(run_id, lambda run: run["status"] in _FINISHED)

    def fill(self) -> None:
        """Runs that are over: completed, failed, cancelled; two versions of the demo."""
        demo = demo_pipeline(self.image)
        for definition in (demo, _night(self.image), BEAM, NOISE, POINTING):
            self.client.put(f"/pipelines/{definition['name']}", definition)
        labels = {"source": "NGC 0", "line": "CO(7-6)"}
        scans = [f"scan-{number:02}" for number in range(1, 25)]
        self.ids["done"] = self.submit("demo-galaxy", {"scans": scans}, labels=labels)
        failed = [self.submit("beam-fit", {"planet": each}, labels={"planet": each}) for each in ("Uranus", "Mars")]
        self.finished(self.ids["done"])
        demo["steps"][-1]["resources"]["time_hours"] = 0.2
        self.client.put("/pipelines/demo-galaxy", demo)
        for line, name in (("CO43", "CO(4-3)"), ("CI21", "[CI] 2-1")):
            run_id = self.submit("demo-galaxy", {"line": line, "scans": scans[:6]}, labels={**labels, "line": name})
            self.finished(run_id)
        self.ids["failed"] = failed[0]
        self.ids["failed_step_run"] = _first(self.finished(failed[0]), "FAILED")
        stopped = self.submit("beam-fit", {"planet": "Neptune"}, labels={"planet": "Neptune"})
        self.client.post(f"/runs/{stopped}/cancel")
        products = list(self.client.items(f"/runs/{self.ids['done']}/products", None))
        self.ids["map"] = next(str(each["id"]) for each in products if each["path"].endswith("map.png"))
        self.ids["fits"] = next(str(each["id"]) for each in products if each["path"].endswith("map.fits"))

    def night(self) -> None:
        """A run with a step run in its second attempt."""
        self.ids["night"] = self.submit("night-report", {}, labels={"night": "2026-11-27"})

        def again(run: dict[str, Any]) -> bool:
            return any(each["attempt"] > 1 and each["status"] == "RUNNING" for each in run["step_runs"])

        self.ids["step_run"] = _first(self.until(self.ids["night"], again), "RUNNING")

    def running(self) -> None:
        """A run of the demo in its third step."""
        scans = [f"scan-{number:02}" for number in range(1, 37)]
        labels = {"source": "NGC 0", "line": "CO(7-6)", "night": "2026-11-27"}
        self.ids["running"] = self.submit("demo-galaxy", {"scans": scans, "seed": 11}, labels=labels, priority=50)

        def half_done(run: dict[str, Any]) -> bool:
            done = [each for each in run["step_runs"] if each["step"] == "baseline" and each["status"] == "COMPLETED"]
            return len(done) >= len(scans) // 3

        self.until(self.ids["running"], half_done)

    def broken(self) -> None:
        """A step that fails for everybody, so that the next run of it is held back."""
        for night, count in (("2026-11-26", 20), ("2026-11-27", 1000)):
            scans = [f"scan-{number:04}" for number in range(1, count + 1)]
            run_id = self.submit("pointing", {"scans": scans}, labels={"night": night})
            self.until(run_id, lambda run: bool(self.client.get("/dashboard/attention")["items"]))

    def wide(self) -> None:
        """A fan-out in the middle of its way."""
        detectors = [f"det-{number:05}" for number in range(1, KEYS + 1)]
        labels = {"array": "280 GHz", "night": "2026-11-27"}
        self.ids["wide"] = self.submit("detector-noise", {"detectors": detectors}, labels=labels)
        self.until(self.ids["wide"], lambda run: run["counts"]["COMPLETED"] > KEYS)

    def changes(self) -> None:
        """What operators have changed and paused until a time."""
        end = (datetime.now(UTC) + timedelta(hours=8)).isoformat()
        limit = {"max_live": 400, "max_queued": 30_000, "until": end, "why": "the survey of this week"}
        self.client.patch("/projects/default", limit)
        self.client.post("/pipelines/beam-fit/pause", {"why": "a new calibration is being checked", "until": end})


AT_ONCE = {"run": "/runs/{running}", "wide": "/runs/{wide}", "step-run": "/step-runs/{step_run}"}
LATER = {
    "overview": "/", "runs": "/runs", "done": "/runs/{done}", "failed": "/runs/{failed}", "pipelines": "/pipelines",
    "failed-step-run": "/step-runs/{failed_step_run}", "pipeline": "/pipelines/demo-galaxy",
    "product": "/products/{map}", "fits": "/products/{fits}",
    "backends": "/backends", "workers": "/workers", "events": "/events", "audit": "/audit",
    "failures": "/events?type=step_run.failed&since=24h", "projects": "/projects", "project": "/projects/default",
    "limits": "/projects/default/limits", "hold": "/pipelines/beam-fit/hold?change=1",
    "tokens": "/tokens", "step": "/runs/{done}/steps/baseline", "products": "/products", "wrong": "/runs?status=BAD",
    "empty": "/runs?pipeline=none", "missing": "/runs/00000000-0000-7000-8000-000000000000",
}  # fmt: skip
KEPT = {
    "overview": ("", "-390"), "runs": ("",), "run": ("", "-dark"), "wide": ("",), "step-run": ("",), "pipeline": ("",),
    "product": ("",),
}  # fmt: skip
"""The pictures of docs/images."""


class Camera:
    """The pages of one browser: light, dark, and as wide as a phone."""

    def __init__(self, browser: Browser, stage: Stage, target: Path | None) -> None:
        self.stage = stage
        self.target = target
        self.pages = {}
        for suffix, scheme, size in (("", "light", WIDE), ("-dark", "dark", WIDE), ("-390", "light", PHONE)):
            context = browser.new_context(base_url=stage.deployment.api_url, viewport=size, color_scheme=scheme)
            self.pages[suffix] = context.new_page()

    def take(self, name: str, address: str) -> None:
        for suffix, page in self.pages.items():
            if self.target is None and suffix not in KEPT.get(name, ()):
                continue
            page.goto(address.format(**self.stage.ids))
            page.evaluate("document.fonts.ready")
            page.wait_for_function("document.fonts.status === 'loaded'")
            if name == "step-run":
                page.locator(".log li[id]").nth(20).wait_for(state="attached")
            if self.target is not None:
                page.screenshot(path=str(self.target / f"{name}{suffix}.png"), full_page=suffix == "-390")
            else:
                self._keep(page, IMAGES / f"dashboard-{name}{suffix}.webp")

    def _keep(self, page: Page, path: Path) -> None:
        """The window as WebP, which Chromium writes itself."""
        session = page.context.new_cdp_session(page)
        taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        path.write_bytes(base64.b64decode(taken["data"]))
        session.detach()


def _all(stage: Stage, target: Path | None) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        camera = Camera(browser, stage, target)
        stage.fill()
        stage.night()
        camera.take("step-run", AT_ONCE["step-run"])
        stage.running()
        camera.take("run", AT_ONCE["run"])
        stage.broken()
        stage.wide()
        camera.take("wide", AT_ONCE["wide"])
        stage.changes()
        for name, address in LATER.items():
            camera.take(name, address)
        browser.close()


def take(target: Path | None) -> None:
    """Start a deployment and take all pictures."""
    with tempfile.TemporaryDirectory(prefix="ccat-screenshots-") as directory:
        settings = load_settings({"DATA_DIR": directory}).model_copy(update={"api_port": 0})
        found = runtime.detect(settings.container_runtime, allow_none=True)
        image = ensure_demo_image(str(settings.sif_cache_dir), found) if found.contained else None
        deployment = Deployment(settings)
        try:
            deployment.start()
            deployment.wait_ready()
            with Client(deployment.api_url) as client:
                _all(Stage(deployment, client, image), target)
        finally:
            deployment.stop()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    take(Path(sys.argv[1]) if sys.argv[1:] else None)
