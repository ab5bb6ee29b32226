"""What every test shares: Hypothesis profiles, the rule that no warning goes unnoticed, and which
tests go to one process when several work (`pytest -n`).

The profile is chosen by CDPFS_HYPOTHESIS_PROFILE: `ci` (the default) or `nightly`.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# Under CI the same commit gets the same examples; by hand every run tries new ones. A failure
# prints the blob that repeats it either way.
settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly",
    parent=settings.get_profile("ci"),
    derandomize=False,
    max_examples=2000,
    stateful_step_count=200,
)
settings.load_profile(os.environ.get("CDPFS_HYPOTHESIS_PROFILE", "ci"))


class _Shares(LoadScopeScheduling):
    """Gives each process one file after the other, in the order in which they were collected.

    Lines whose rate is measured are not laid beside each other, so their folder is one share. The
    programs of `tests/transactions` take long and know nothing of each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/network/"):
            return "tests/network"
        return nodeid if nodeid.startswith("tests/transactions/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Whatever `--dist` says."""
    config.option.loadscopereorder = False
    return _Shares(config, log)


class _Collector(logging.Handler):
    """Keeps what a test logged at WARNING or above, already formatted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(autouse=True)
def no_unexpected_warnings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logs a WARNING or worse, unless it is marked `expects_warnings`."""
    collector = _Collector()
    root = logging.getLogger()
    root.addHandler(collector)
    try:
        yield
    finally:
        root.removeHandler(collector)
    if collector.lines and request.node.get_closest_marker("expects_warnings") is None:
        pytest.fail("unexpected log records:\n" + "\n".join(collector.lines), pytrace=False)
