"""Skips the tests of the network, with the reason, where namespaces can't be made."""

from functools import cache

import pytest

from tests.network.line import missing


@cache
def _missing() -> str:
    return missing()


@pytest.fixture(autouse=True)
def namespaces() -> None:
    reason = _missing()
    if reason:
        pytest.skip(reason)
