"""The databases that a command is to use: those of the settings, else the embedded ones that are running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.settings import PREFIX, Settings


@contextmanager
def reachable(settings: Settings, *, redis: bool = True) -> Iterator[Settings]:
    """The settings with the URLs of the embedded servers filled in. While inside, these servers stay up."""
    with ExitStack() as used:
        if not settings.database_url:
            url = _joined(EmbeddedPostgres(settings.data_dir), "DATABASE_URL", used)
            settings = settings.model_copy(update={"database_url": url})
        if redis and not settings.redis_url:
            url = _joined(EmbeddedValkey(settings.data_dir), "REDIS_URL", used)
            settings = settings.model_copy(update={"redis_url": url})
        yield settings


def _joined(server: EmbeddedPostgres | EmbeddedValkey, setting: str, used: ExitStack) -> str:
    if server.pid is None:
        raise ServiceUnavailable(
            f"{PREFIX}{setting} is empty and no embedded {server.name} is running in {server.home.parent}: "
            f"start everything with `ccat-wm up`, or set {PREFIX}{setting}"
        )
    url = server.start()
    used.callback(server.stop)
    return url
