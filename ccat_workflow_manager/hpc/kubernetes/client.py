"""The requests to the API server, and their repetition.

The official client finds the cluster and the credentials: kubeconfig with its contexts, plug-ins for credentials, the
service account of a pod. This client sends plain JSON through its connection pool: its models cost milliseconds for
each object, and they change from version to version.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yaml import YAMLError

from ccat_workflow_manager.errors import BackendConfused, BackendError, BackendUnavailable
from ccat_workflow_manager.hpc.kubernetes.answers import (
    REPEATED,
    Answer,
    Expired,
    confused,
    content,
    refusal,
    refused_job,
)
from ccat_workflow_manager.hpc.kubernetes.manifest import CONTAINER

if TYPE_CHECKING:
    import urllib3
    from kubernetes.client import ApiClient

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
WATCH_SECONDS = 60
"""A watch ends after this long and is begun again, so that a dead connection is noticed."""
PAGE = 500
_STREAM_FAULTS: tuple[type[Exception], ...] = (ValueError,)
"""Python's error for a TLS connection that was cut while it was read."""
_WRONG_FORM: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError)
"""The errors of the official client for a configuration of the wrong shape."""
_SENDABLE = re.compile(r"[\t\x20-\x7e]+")
_PAUSES = (0, 0.2, 0.5, 1.0, 2.0)
"""Before each try."""
_COUNTED_AGAIN = 4
"""Tries to create a Job while others change the quota at the same moment."""
_LONGEST_PAUSE = 10.0
_CONNECTIONS = 16
_KINDS = {"Job": ("/apis/batch/v1", "jobs"), "Pod": ("/api/v1", "pods")}


def kubeconfig() -> list[Path]:
    """The configuration files that exist, as kubectl finds them."""
    named = os.environ.get("KUBECONFIG", "")
    paths = [Path(each).expanduser() for each in named.split(os.pathsep) if each]
    return [path for path in paths or [Path("~/.kube/config").expanduser()] if path.is_file()]


def in_cluster() -> bool:
    return bool(os.environ.get(IN_CLUSTER)) and TOKEN_FILE.is_file()


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind, and the resource version of the list."""

    items: list[dict[str, Any]]
    version: str


class KubernetesClient:
    """One cluster. Many threads may use it."""

    def __init__(self, *, context: str | None = None, request_seconds: float) -> None:
        self._context = context
        self._seconds = request_seconds
        self._lock = threading.Lock()
        self._client: ApiClient | None = None
        self._version: tuple[int, int] | None = None
        self._not_before = 0.0
        self._closed = threading.Event()
        self.requests = 0
        """The number of requests so far, watches included."""

    # --- requests ----------------------------------------------------------------------------------------------------

    def version(self) -> tuple[int, int]:
        """The version of the server: (1, 31)."""
        if self._version is None:
            answer = self.call("GET", "/version")
            if not answer.ok:
                raise refusal(answer, "asking for the version")
            try:
                data = json.loads(answer.body)
                major, minor = (int("".join(filter(str.isdecimal, data[key]))) for key in ("major", "minor"))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise confused(f"it has no version: {error!r}", answer.body) from error
            self._version = major, minor
        return self._version

    def create(self, namespace: str, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """Create a Job. Returns None if there is one of this name."""
        for _ in range(_COUNTED_AGAIN):
            answer = self.call("POST", _path("Job", namespace), body=job)
            if answer.ok:
                return content(answer, "Job")
            if answer.status == 409 and answer.reason == "AlreadyExists":
                return None
            if not (answer.status == 409 and answer.reason == "Conflict"):
                break
        raise refused_job(answer, f"creating the Job {job['metadata']['name']} in {namespace}")

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        answer = self.call("GET", _path("Job", namespace, name))
        if answer.ok:
            return content(answer, "Job")
        if answer.status == 404 and answer.reason == "NotFound":
            return None
        raise refusal(answer, f"asking for the Job {name} in {namespace}")

    def delete(self, namespace: str, name: str, uid: str = "") -> None:
        """Delete a Job with its pods; by default Kubernetes would let the pods go on."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        answer = self.call("DELETE", _path("Job", namespace, name), body=body)
        # 409: another Job has this name by now, and the one with this uid is gone.
        if not answer.ok and answer.status not in (404, 409):
            raise refusal(answer, f"deleting the Job {name} in {namespace}")

    def list(self, kind: str, namespace: str, selector: str) -> Listed:
        """All objects of a kind, page by page. A list that expires while it is read begins again."""
        for _ in range(3):
            try:
                return self._list(kind, namespace, selector)
            except Expired:
                continue
        raise BackendUnavailable(f"the {kind}s of {namespace} change faster than they are read", backend="kubernetes")

    def _list(self, kind: str, namespace: str, selector: str) -> Listed:
        query = {"labelSelector": selector, "limit": str(PAGE)}
        items: list[dict[str, Any]] = []
        while True:
            answer = self.call("GET", _path(kind, namespace), query)
            if not answer.ok:
                raise refusal(answer, f"listing the {kind}s of {namespace}")
            page = content(answer, f"{kind}List")
            metadata = page.get("metadata")
            if not isinstance(page.get("items"), list | None) or not isinstance(metadata, dict):
                raise confused("it is no list", answer.body)
            items += page.get("items") or []
            if not metadata.get("continue"):
                return Listed(items, str(metadata.get("resourceVersion", "")))
            query["continue"] = metadata["continue"]

    def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """The end of the log of a pod; empty if there is none (any more)."""
        # A pod may have more containers, from KUBERNETES_POD_PATCH.
        query = {"container": CONTAINER, "tailLines": str(lines)}
        answer = self.call("GET", f"{_path('Pod', namespace, pod)}/log", query)
        return answer.body.decode("utf-8", "replace") if answer.ok else ""

    def pod_metrics(self, namespace: str, pod: str) -> dict[str, Any] | None:
        """The metrics of a pod, if there is a metrics server."""
        answer = self.call("GET", f"/apis/metrics.k8s.io/v1beta1/namespaces/{quote(namespace)}/pods/{quote(pod)}")
        return content(answer, "PodMetrics") if answer.ok else None

    # --- watching ----------------------------------------------------------------------------------------------------

    def watch(
        self, kind: str, namespace: str, selector: str, version: str, opened: Watching
    ) -> Iterator[dict[str, Any]]:
        """The events since a version, until the server ends the watch. Raises Expired for a version that is too old."""
        query = {
            "labelSelector": selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response = self._send("GET", _path(kind, namespace), query, None, stream=True)
            if response.status != 200:
                if response.status == 401:
                    self._renew()
                answer = Answer(response.status, response.read(4096))
                raise refusal(answer, f"watching the {kind}s of {namespace}")
            opened.response = response
            if opened.over:
                return
            opened.connected()
            for line in response:
                if line.strip():
                    yield _event(line)
        except _STREAM_FAULTS + _transport_errors() as error:
            if not opened.over:
                raise self._away(error) from error
        finally:
            opened.response = None
            if response is not None:
                response.close()

    # --- one request -------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """Send a request, and repeat it while that may help and `request_seconds` last. Raises BackendUnavailable."""
        deadline = time.monotonic() + self._seconds
        trouble: BackendError | None = None
        renewed = False
        for pause in _PAUSES:
            if trouble is not None and (self._closed.is_set() or time.monotonic() + pause > deadline):
                raise trouble
            self._closed.wait(max(pause, self._not_before - time.monotonic()))
            try:
                response = self._send(method, path, query, body, stream=False)
                if response.status == 401 and not renewed:
                    renewed = True
                    self._renew()
                    response = self._send(method, path, query, body, stream=False)
            except _transport_errors() as error:
                trouble = self._away(error)
                continue
            answer = Answer(response.status, response.data)
            if answer.status not in REPEATED:
                return answer
            trouble = refusal(answer, f"{method} {path}")
            wanted = _retry_after(response)
            if wanted is not None:
                self._not_before = time.monotonic() + min(wanted, _LONGEST_PAUSE)
                if wanted > _LONGEST_PAUSE:
                    break
        assert trouble is not None
        raise trouble

    def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Mapping[str, Any] | None, *, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        client = self._connected()
        try:
            headers = {"Accept": "application/json", "User-Agent": "ccat-workflow-manager", **_credentials(client)}
        except BackendUnavailable:
            # Their files may have been repaired by the next request.
            self._renew()
            raise
        if body is not None:
            headers["Content-Type"] = "application/json"
        words = "&".join(f"{key}={quote(value, safe='')}" for key, value in (query or {}).items())
        silence = WATCH_SECONDS + 15 if stream else self._seconds
        self.requests += 1
        answered: urllib3.BaseHTTPResponse = client.rest_client.pool_manager.request(
            method,
            client.configuration.host + path + (f"?{words}" if words else ""),
            body=json.dumps(body).encode() if body is not None else None,
            headers=headers,
            retries=False,
            preload_content=not stream,
            timeout=urllib3.Timeout(connect=min(10, self._seconds), read=silence),
        )
        return answered

    def _connected(self) -> ApiClient:
        with self._lock:
            if self._client is None:
                self._client = _client(self._context)
            return self._client

    def _renew(self) -> None:
        """Read the credentials again for the next request: a token may have expired while its file has a new one."""
        with self._lock:
            self._client = None

    def _away(self, error: Exception) -> BackendUnavailable:
        words = " ".join(str(error).split())[:500]
        return BackendUnavailable(f"the Kubernetes API server does not answer: {words}", backend="kubernetes")

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.rest_client.pool_manager.clear()


class Watching:
    """The connection of a watch. `connected` is called when it stands; another thread may cut it."""

    def __init__(self, connected: Callable[[], None]) -> None:
        self.connected = connected
        self.response: urllib3.BaseHTTPResponse | None = None
        self.over = False

    def cut(self) -> None:
        """End the stream for its reader."""
        self.over = True
        response = self.response
        if response is not None:
            # Only this wakes a reader that waits for the next byte. With an older urllib3, which does not have it, the
            # watch ends after WATCH_SECONDS.
            with suppress(ValueError, RuntimeError, OSError, AttributeError):
                response.shutdown()


def _client(context: str | None) -> ApiClient:
    """Raises BackendUnavailable if the configuration of the cluster is missing or broken."""
    from kubernetes import client, config
    from kubernetes.config import ConfigException

    settings = client.Configuration()
    settings.connection_pool_maxsize = _CONNECTIONS
    files = kubeconfig()
    try:
        if files:
            names = os.pathsep.join(str(path) for path in files)
            config.load_kube_config(names, context=context, client_configuration=settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
        return client.ApiClient(settings)
    except (ConfigException, YAMLError, OSError, *_WRONG_FORM) as error:
        where = ", ".join(str(path) for path in files) or "the service account of this pod"
        words = " ".join(str(error).split())
        raise BackendUnavailable(f"{where} cannot be used: {words}", backend="kubernetes") from error


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    """For how many seconds the server wants no request; None if it does not say so in a form that can be read."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _credentials(client: ApiClient) -> dict[str, str]:
    """The headers with the credentials. Raises BackendUnavailable, whose text never contains them."""
    from kubernetes.config import ConfigException

    try:
        # The client may read them again for this.
        ways = client.configuration.auth_settings().values()
    except (ConfigException, YAMLError, *_WRONG_FORM) as error:
        words = f"the credentials for the Kubernetes API server cannot be read: {error}"
        raise BackendUnavailable(words, backend="kubernetes") from error
    found = {way["key"]: way["value"].strip() for way in ways if way["in"] == "header" and way["value"]}
    for value in found.values():
        if not _SENDABLE.fullmatch(value):
            words = "the credentials for the Kubernetes API server cannot be sent: a token is one line of ASCII"
            raise BackendUnavailable(words, backend="kubernetes")
    return found


def _transport_errors() -> tuple[type[Exception], ...]:
    import urllib3

    return (urllib3.exceptions.HTTPError, OSError)


def _path(kind: str, namespace: str, name: str = "") -> str:
    group, plural = _KINDS[kind]
    return f"{group}/namespaces/{quote(namespace, safe='')}/{plural}" + (f"/{quote(name, safe='')}" if name else "")


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise confused(f"an event is no JSON: {error}", line) from error
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise confused("it is no event", line)
    if event.get("type") != "ERROR":
        return event
    status = event["object"]
    if status.get("code") == 410:
        raise Expired(str(status.get("message")), backend="kubernetes")
    if status.get("code") is None:
        raise BackendConfused("the watch ended with an error without a code", backend="kubernetes")
    raise BackendUnavailable(f"the watch ended: {status.get('message')}", backend="kubernetes")
