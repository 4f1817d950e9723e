"""Ids: UUIDv7, so that ids made later sort later and an index on them grows at one end."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    return uuid7()


def new_ids(count: int) -> list[UUID]:
    """Ids in ascending order."""
    return sorted(uuid7() for _ in range(count))
