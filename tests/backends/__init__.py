"""The one list of our backends, read from their entry points: tests that hold for each of them take it from here."""

from __future__ import annotations

from ccat_workflow_manager.settings.backends import registered

OURS = tuple(sorted(name for name, entry in registered().items() if entry.module.startswith("ccat_workflow_manager.")))
