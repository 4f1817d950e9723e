"""Write the pages of docs/ that are derived from the code, or with --check only say whether they are current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ccat_workflow_manager.settings import settings_markdown

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_markdown,
}


def main() -> int:
    outdated = 0
    for name, text in PAGES.items():
        page = Path(__file__).with_name(name)
        if page.exists() and page.read_text(encoding="utf-8") == text():
            continue
        if "--check" in sys.argv[1:]:
            print(f"{page} is not current: run `make docs`", file=sys.stderr)  # noqa: T201 - a program of its own
            outdated += 1
        else:
            page.write_text(text(), encoding="utf-8")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
