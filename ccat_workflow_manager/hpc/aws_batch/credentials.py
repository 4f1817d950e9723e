"""Whether this machine has credentials and a region for AWS. Uses no network."""

from __future__ import annotations

import os
from pathlib import Path

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc.base import Availability

_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_ON_THE_NETWORK = ("iam-role", "container-role")
_MACHINE = Path("/sys/class/dmi/id/board_vendor")
_HINT = "give the worker credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, `aws configure`, or a role"


def availability(profile: str | None = None) -> Availability:
    """Whether there are credentials, or may be on the network of this machine."""
    try:
        session = Session(profile=profile or None)
        known = session.available_profiles
        if session.profile and session.profile not in known:
            return Availability(False, f"the files of AWS have no profile {session.profile!r}", _HINT)
        if known or any(os.environ.get(name) for name in _CONTAINER) or _on_ec2():
            return Availability(True)
        resolver = session.get_component("credential_provider")
        for name in _ON_THE_NETWORK:
            resolver.remove(name)
        found = resolver.load_credentials()
    except (BotoCoreError, ValueError) as error:
        return Availability(False, f"the configuration of AWS cannot be read: {error}", _HINT)
    return Availability(True) if found is not None else Availability(False, "there are no credentials for AWS", _HINT)


def region(profile: str | None = None) -> str | None:
    """The region that the environment or the files of AWS name, for this profile. Raises ConfigurationError."""
    found = os.environ.get("AWS_REGION")
    try:
        found = found or Session(profile=profile or None).get_config_variable("region")
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"AWS_BATCH_PROFILE, or the files of AWS, cannot be used: {error}") from error
    return str(found) if found else None


def _on_ec2() -> bool:
    """Whether this machine may have a role, which only the network would show."""
    try:
        return _MACHINE.read_text(encoding="utf-8").strip() == "Amazon EC2"
    except OSError:
        return False
