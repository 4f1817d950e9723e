"""The backends that a process has set up, each once."""

from __future__ import annotations

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.settings import Settings


class OpenBackends:
    """Sets up a backend at its first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, HPCBackend] = {}

    def use(self, name: str, backend: HPCBackend) -> None:
        """Take this object as the backend `name`."""
        self._open[name] = backend

    def get(self, name: str) -> HPCBackend:
        """The backend with this name, configured by the settings. Raises BackendUnavailable."""
        known = self._open.get(name)
        if known is None:
            known = self._open[name] = self._set_up(name)
        return known

    def _set_up(self, name: str) -> HPCBackend:
        settings = self._settings
        try:
            given = {
                "state_dir": str(settings.data_dir / "backends" / name),
                "pipeline_base_dir": str(settings.pipeline_base_dir),
                "sif_cache_dir": str(settings.sif_cache_dir),
                "redis_url": settings.redis_url,
                "kill_grace_seconds": settings.kill_grace_seconds,
                "log_limit_mb": settings.log_limit_mb,
                "disk_limit_gb": settings.disk_limit_gb,
                **settings.for_backend(name),
            }
            return registry.create_filtered(name, **given)
        except ConfigurationError as error:
            raise BackendUnavailable(error.message, backend=name) from error

    def close(self) -> None:
        for backend in self._open.values():
            backend.close()
