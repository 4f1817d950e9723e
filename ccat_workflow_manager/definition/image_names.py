"""Syntax check of container image names, without asking a registry.

A wrong name is refused when a definition is applied or a run is requested, not when a step run is staged.
"""

from __future__ import annotations

import re

from ccat_workflow_manager.json_values import text_problem

SCHEMES = ("docker", "oras", "library")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Placeholder in a name for a value that is not known yet."""

_MAX_LENGTH = 4095
"""PATH_MAX of Linux, without the final NUL; no registry takes as much."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z")
_LONGEST_REFERENCE = 255 + len(":") + 128 + len("@sha256:") + 64
"""The name, tag and digest of an image in a registry."""
_OCI = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_PINNED = re.compile(r"(?P<name>.+)@(?P<digest>sha256:[0-9a-f]{64})\Z")
_DIGEST = re.compile(r"@(sha256:[^/]*)\Z")


def scheme_of(image: str) -> str | None:
    """`docker` of `docker://chai`; None for a path and for a name with a digest."""
    scheme = _SCHEME.match(image)
    return None if scheme is None else scheme[1]


def pinned(image: str) -> tuple[str, str | None]:
    """The name, and the digest that it is pinned to or None."""
    found = _PINNED.match(image)
    return (found["name"], found["digest"]) if found else (image, None)


def image_problem(image: str) -> str | None:
    """Why this cannot name an image; None if it can."""
    return _problem(image, in_part=False)


def partial_image_problem(image: str) -> str | None:
    """Why this cannot name an image for any value of its UNKNOWN parts; None if it can."""
    return _problem(image, in_part=True)


def is_reference(location: str) -> bool:
    """Whether this can follow `docker://`."""
    return _REFERENCE.match(location) is not None and ".." not in location.split("/")


def _problem(image: str, *, in_part: bool) -> str | None:
    if not image.strip():
        return "is empty; name an image or write null"
    if image.startswith("-"):
        return "begins with a dash and would be taken for an option"
    if problem := text_problem(image):
        return problem
    if any(not character.isprintable() for character in image):
        return "contains a control character"
    if len(image.encode()) > _MAX_LENGTH:
        return f"is longer than {_MAX_LENGTH} bytes, the most that a path may have"
    scheme = scheme_of(image)
    if scheme is not None and scheme not in SCHEMES:
        return f"begins with {scheme}://; images come from a path or {', '.join(f'{name}://' for name in SCHEMES)}"
    location = image if scheme is None else image.partition("://")[2]
    if ".." in location.split("/"):
        return "contains '..', which a name of an image must not"
    digest = _DIGEST.search(location)
    if digest is not None and pinned(location)[1] is None and not (in_part and UNKNOWN in digest[1]):
        return f"is pinned to {digest[1][:80]!r}, which is no digest: sha256: and 64 of the characters 0-9 and a-f"
    if scheme is not None:
        known = location.replace(UNKNOWN, "0") if in_part else location
        return None if is_reference(known) else f"is not a reference to an image in a registry: {scheme}://NAME[:TAG]"
    if all(part in ("", ".") for part in location.split("/")):
        return "names a directory, not an image"
    return None


class NoOciImage(ValueError):
    """A container service cannot pull this image."""


def oci_image(reference: str | None, setting: str) -> str:
    """The image of a step as a container service takes it. Raises NoOciImage.

    `setting` is the setting that makes the image of the step that of the job.
    """
    if not reference:
        raise NoOciImage(f"the step names no image, and {setting} runs every step in its own image")
    name = reference.removeprefix("docker://")
    if "://" in name or name.endswith(".sif") or len(name) > _LONGEST_REFERENCE or not _OCI.fullmatch(name):
        raise NoOciImage(f"{reference[:_LONGEST_REFERENCE]} is no OCI image, which {setting} needs (registry/name:tag)")
    return name
