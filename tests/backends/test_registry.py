"""The registry of backends: by entry points made up for the test, each of a module and a distribution of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import Availability
from ccat_workflow_manager.settings import BACKEND_GROUP
from ccat_workflow_manager.settings.backends import registered
from tests.backends import OURS

PREAMBLE = "from ccat_workflow_manager.hpc.base import Availability, HPCBackend\n"
FOUR = "submit = get_status = cancel = get_logs = lambda self, *a, **k: None"
GOOD = f"class Backend(HPCBackend):\n    {FOUR}\n"

REPOSITORY = Path(__file__).parents[2]

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_again: Callable[[], None]) -> Install:
    """Put a distribution with one backend on the path, and only such ones into the registry."""
    entry_points = metadata.entry_points
    installed: set[str] = set()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        metadata,
        "entry_points",
        lambda group: [entry for entry in entry_points(group=group) if entry.dist and entry.dist.name in installed],
    )

    def install(
        name: str, source: str, *, distribution: str = "", value: str = "", requires: str = "", extra: str = ""
    ) -> None:
        distribution = distribution or f"example-{name}"
        module = f"example_{name}_{len(installed)}"
        (tmp_path / f"{module}.py").write_text(PREAMBLE + source)
        information = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        information.mkdir()
        headers = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        if extra:
            headers += f"Provides-Extra: {extra}\n"
        if requires:
            headers += f"Requires-Dist: {requires}\n"
        (information / "METADATA").write_text(headers)
        (information / "entry_points.txt").write_text(f"[{BACKEND_GROUP}]\n{name} = {value or module + ':Backend'}\n")
        installed.add(distribution)
        sys.modules.pop(module, None)
        look_again()

    return install


def test_lists_creates_and_names(install: Install) -> None:
    install("zebra", GOOD)
    install("ant", GOOD)
    assert registry.names() == ["ant", "zebra"]
    assert registry.list_backends() == {"ant": Availability(True), "zebra": Availability(True)}
    assert registry.create("ant").name == "ant"
    assert registry.get_class("zebra").name == "zebra"


def test_unknown_name_says_what_there_is(install: Install) -> None:
    install("slurm", GOOD)
    install("local", GOOD)
    with pytest.raises(registry.UnknownBackend, match=r"'slrum' \(did you mean 'slurm'\?\); known are: local, slurm"):
        registry.create("slrum")
    assert issubclass(registry.UnknownBackend, ConfigurationError)


def test_missing_extra_is_reported_without_importing(install: Install) -> None:
    install(
        "big", "raise RuntimeError('imported')\n", extra="big", requires="no-such-package-at-all>=2; extra == 'big'"
    )
    hint = "pip install 'example-big[big]'"
    assert registry.list_backends() == {"big": Availability(False, "not installed: no-such-package-at-all", hint)}
    with pytest.raises(BackendUnavailable, match=r"not installed: no-such-package-at-all; try: pip install"):
        registry.create("big")


def test_extra_that_is_installed_is_no_hindrance(install: Install) -> None:
    install("fine", GOOD, extra="fine", requires='pytest>=2; extra == "fine"')
    assert registry.list_backends()["fine"].available


def test_requirements_of_other_extras_do_not_matter(install: Install) -> None:
    install("fine", GOOD, extra="other", requires='no-such-package-at-all; extra == "other"')
    assert registry.list_backends()["fine"].available


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
        ("class Backend(\n", "was never closed"),
        ("raise OSError('libslurm.so: cannot open')\n", "libslurm.so"),
        ("raise RuntimeError('wrong version')\n", "wrong version"),
        ("", "has no attribute 'Backend'"),
    ],
)
def test_broken_module_is_listed_with_the_reason(install: Install, source: str, reason: str) -> None:
    install("broken", source)
    install("fine", GOOD)
    listed = registry.list_backends()
    assert listed["fine"].available
    assert not listed["broken"].available
    assert reason in listed["broken"].reason
    assert "example-broken" in listed["broken"].installation_hint
    with pytest.raises(BackendUnavailable, match="cannot be imported"):
        registry.create("broken")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (
            "class Backend(HPCBackend):\n    def submit(self): ...\n    def get_logs(self): ...\n",
            "lacks cancel, get_status",
        ),
        ("class Backend:\n    def submit(self): ...\n", "lacks get_status, cancel, get_logs"),
        (f"class Backend:\n    {FOUR}\n", "must be a subclass of ccat_workflow_manager.hpc.base.HPCBackend"),
        ("Backend = 3\n", "is not a class"),
    ],
)
def test_what_is_no_backend_is_refused(install: Install, source: str, complaint: str) -> None:
    install("odd", source)
    assert complaint in registry.list_backends()["odd"].reason
    with pytest.raises(registry.InvalidBackend, match=complaint):
        registry.create("odd")


def test_unavailable_backend_says_why(install: Install) -> None:
    source = (
        GOOD + "    @classmethod\n    def is_available(cls): return Availability(False, 'no sbatch', 'ask your site')\n"
    )
    install("slurm", source)
    assert registry.list_backends()["slurm"] == Availability(False, "no sbatch", "ask your site")
    with pytest.raises(registry.UnusableBackend, match="no sbatch; try: ask your site") as raised:
        registry.create("slurm")
    assert raised.value.backend == "slurm"


def test_is_available_that_fails_does_not_break_the_list(install: Install) -> None:
    install("odd", GOOD + "    @classmethod\n    def is_available(cls): raise OSError('disk on fire')\n")
    assert "disk on fire" in registry.list_backends()["odd"].reason


def test_configuration_is_checked_against_the_keywords(install: Install) -> None:
    install("cluster", GOOD + "    def __init__(self, *, partition, account='a'): self.got = (partition, account)\n")
    assert vars(registry.create("cluster", partition="p"))["got"] == ("p", "a")
    with pytest.raises(
        ConfigurationError, match=r"no setting 'partitoin' \(did you mean 'partition'\?\); it has: account"
    ):
        registry.create("cluster", partitoin="p")
    with pytest.raises(ConfigurationError, match="without the setting partition"):
        registry.create("cluster")


def test_filtered_configuration(install: Install) -> None:
    install("plain", GOOD)
    install("picky", GOOD + "    def __init__(self, *, a=0): self.got = a\n")
    install("greedy", GOOD + "    def __init__(self, **kwargs): self.got = kwargs\n")
    assert registry.create_filtered("plain", a=1, b=2).name == "plain"
    assert vars(registry.create_filtered("picky", a=1, b=2))["got"] == 1
    assert vars(registry.create_filtered("greedy", a=1, b=2))["got"] == {"a": 1, "b": 2}


def test_detects_in_order(install: Install) -> None:
    install("local", GOOD)
    assert registry.detect() == "local"
    install("kubernetes", GOOD)
    install("slurm", GOOD + "    @classmethod\n    def is_available(cls): return Availability(False, 'no sbatch')\n")
    assert registry.detect() == "kubernetes"


def test_detects_nothing(install: Install) -> None:
    with pytest.raises(BackendUnavailable, match="none is registered"):
        registry.detect()
    install("slurm", GOOD + "    @classmethod\n    def is_available(cls): return Availability(False, 'no sbatch')\n")
    with pytest.raises(BackendUnavailable, match="slurm: no sbatch"):
        registry.detect()


def test_two_packages_with_one_name(install: Install) -> None:
    install("same", GOOD, distribution="first")
    install("same", GOOD, distribution="second")
    with pytest.raises(ConfigurationError, match="registered twice"):
        registry.list_backends()


@pytest.mark.parametrize("backend", OURS)
def test_each_of_ours_has_what_contributing_backends_lists(backend: str) -> None:
    assert registered()[backend].module.startswith(f"ccat_workflow_manager.hpc.{backend}")
    assert registered()[backend].load().name == backend
    assert (REPOSITORY / "docs" / "backends" / f"{backend}.md").exists()
    tests = (REPOSITORY / "tests" / "backends" / backend).glob("test_contract*.py")
    assert any("(BackendContract)" in path.read_text(encoding="utf-8") for path in tests)
