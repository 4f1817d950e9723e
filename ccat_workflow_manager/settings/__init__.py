"""The settings of a process: declared as models, read from files and environment, checked all at once, then frozen.

`model` says how settings are declared, `service` declares those of the service, `backends` finds those of the backends,
`loader` reads and checks all of them, `contradictions` checks them together, `apart` has another process do both.
docs/settings.md is generated from the declarations.
"""

from ccat_workflow_manager.settings.apart import load_settings_apart
from ccat_workflow_manager.settings.backends import GROUP as BACKEND_GROUP
from ccat_workflow_manager.settings.backends import BackendSettings, settings_of
from ccat_workflow_manager.settings.loader import (
    default_settings_file,
    load_settings,
    migrations_dir,
    specs,
    unprefixed,
)
from ccat_workflow_manager.settings.model import PREFIX, matching, url_of
from ccat_workflow_manager.settings.service import Settings

__all__ = [
    "BACKEND_GROUP",
    "PREFIX",
    "BackendSettings",
    "Settings",
    "default_settings_file",
    "load_settings",
    "load_settings_apart",
    "matching",
    "migrations_dir",
    "settings_of",
    "specs",
    "unprefixed",
    "url_of",
]
