"""A stand-in for S3, as far as jobs and their workers need it: objects that are put, fetched and deleted."""

from __future__ import annotations

import json
import threading
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from urllib.parse import unquote

CREDENTIALS_PATH = "/_stand_in/credentials"


@dataclass
class Buckets:
    """Objects by path, bucket and key together."""

    objects: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, target: str, body: bytes, *, only_new: bool) -> tuple[int, bytes]:
        """Status and body."""
        path, _, query = target.partition("?")
        path = unquote(path)
        with self.lock:
            if method == "POST" and query.startswith("delete"):
                return 200, self._delete(path, body)
            if method == "PUT":
                if only_new and path in self.objects:
                    return 412, _error("PreconditionFailed")
                self.objects[path] = body
                return 200, b""
            if method == "GET" and path == CREDENTIALS_PATH:
                keys = {"AccessKeyId": "role", "SecretAccessKey": "secret", "Token": "token"}
                return 200, json.dumps(keys).encode()
            if method == "GET" and path in self.objects:
                return 200, self.objects[path]
        return 404, _error("NoSuchKey")

    def _delete(self, bucket: str, body: bytes) -> bytes:
        for element in ET.fromstring(body).iter():
            if element.tag.endswith("Key"):
                self.objects.pop(f"{bucket.rstrip('/')}/{element.text}", None)
        return b'<?xml version="1.0"?><DeleteResult/>'


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
