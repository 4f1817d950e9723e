"""The ids of events. They are also cursors: the place behind an event, signed, so that only places that were handed out
are taken back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct

from ccat_workflow_manager.db.queries.feed import Place
from ccat_workflow_manager.errors import RequestError

_PLACE = struct.Struct(">QQ")
_SIGNATURE_BYTES = 8
_TEXT_LENGTH = 32
_MOST = 2**63


class BadCursor(RequestError):
    """This is not a cursor of the events of this deployment."""

    code = "bad_cursor"
    http_status = 400


class Cursors:
    """Encodes and decodes places with the key of this deployment."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, place: Place) -> str:
        raw = _PLACE.pack(*place)
        return base64.urlsafe_b64encode(raw + self._signature(raw)).decode()

    def decode(self, cursor: str) -> Place:
        """Raises BadCursor."""
        if len(cursor) != _TEXT_LENGTH or not cursor.isascii():
            raise BadCursor
        try:
            whole = base64.b64decode(cursor, altchars=b"-_", validate=True)
        except ValueError:
            raise BadCursor from None
        raw, signature = whole[: _PLACE.size], whole[_PLACE.size :]
        if not hmac.compare_digest(signature, self._signature(raw)):
            raise BadCursor
        place = Place(*_PLACE.unpack(raw))
        if max(place) >= _MOST:
            raise BadCursor
        return place

    def _signature(self, raw: bytes) -> bytes:
        return hmac.digest(self._key, raw, hashlib.sha256)[:_SIGNATURE_BYTES]
