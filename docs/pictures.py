"""Draw the pictures of the README from a real run of the demo: `python docs/pictures.py`, about ten seconds.

It starts the demo in a temporary directory, watches its run as `ccat-wm run watch` does, and draws the progress at one
moment, the table at the end, and the map.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.commands.watch import FINISHED, progress, steps_of, steps_table
from ccat_workflow_manager.demo import demo_pipeline, ensure_demo_image
from ccat_workflow_manager.execution import runtime
from ccat_workflow_manager.settings import load_settings
from ccat_workflow_manager.supervise import Deployment

IMAGES = Path(__file__).with_name("images")
WIDTH = 84
SCANS = 24

_THEME = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34),
     (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
)  # fmt: skip
# Rich's own template loads a font from a server; this one uses the fonts of the reader.
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; \
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw() -> None:
    """Run the demo and write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ccat-pictures-") as directory:
        settings = load_settings({"DATA_DIR": directory}).model_copy(update={"api_port": 0})
        found = runtime.detect(settings.container_runtime, allow_none=True)
        image = ensure_demo_image(str(settings.sif_cache_dir), found) if found.contained else None
        deployment = Deployment(settings)
        try:
            deployment.start()
            deployment.wait_ready()
            with Client(deployment.api_url) as client:
                end = _watch(client, demo_pipeline(image))
                _keep_map(end, settings.pipeline_base_dir)
        finally:
            deployment.stop()
    _write("bill.svg", f"run {end['id']} of {end['pipeline']}: {end['status']}", steps_table(end))


def _watch(client: Client, definition: dict[str, Any]) -> dict[str, Any]:
    """Draw the run when a third of its third step is done. Returns the run at its end."""
    client.put(f"/pipelines/{definition['name']}", definition)
    scans = [f"scan-{number:02}" for number in range(1, SCANS + 1)]
    run_id = client.post("/runs", {"pipeline": definition["name"], "parameters": {"scans": scans}})["id"]
    drawn = False
    while True:
        run = client.run(run_id)
        if run["status"] in FINISHED:
            return run
        if not drawn and {step.name: step for step in steps_of(run)}["baseline"].done >= SCANS // 3:
            _write("watch.svg", Text.assemble(("$ ", "green"), "ccat-wm run watch latest"), progress(run))
            drawn = True
        time.sleep(0.02)


def _keep_map(run: dict[str, Any], base_dir: Path) -> None:
    [grid] = [each for each in run["step_runs"] if each["step"] == "grid"]
    output = base_dir / run["pipeline"] / run["id"] / "grid" / grid["key"] / f"attempt-{grid['attempt']}" / "output"
    shutil.copyfile(output / "plots" / "map.png", IMAGES / "map.png")


def _write(name: str, *parts: RenderableType) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor",
                      highlight=False, markup=False, emoji=False)  # fmt: skip
    for part in parts:
        console.print(part)
    console.save_svg(str(IMAGES / name), title="", theme=_THEME, code_format=_SVG, unique_id=name.partition(".")[0])


if __name__ == "__main__":
    draw()
