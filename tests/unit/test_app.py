"""The application refuses what it cannot keep."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.settings import load_settings


def test_it_does_not_serve_unchecked_what_is_to_be_checked() -> None:
    with pytest.raises(ConfigurationError, match="AUTH_REQUIRED"):
        create_app(Context(load_settings({"AUTH_REQUIRED": True})))
