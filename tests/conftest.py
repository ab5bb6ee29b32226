"""What every test shares: Hypothesis profiles, and the rule that no warning goes unnoticed.

The profile is chosen by CDPFS_HYPOTHESIS_PROFILE: `ci` (the default) or `nightly`.
"""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

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
