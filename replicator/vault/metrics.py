"""What a vault tells a Prometheus server.

Duty: count answers, and describe the lines when asked. The registry is the vault's own. `observe`
belongs to the loop; `text` blocks, and one thread at a time may call it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from replicator.vault.root import VaultRoot
from replicator.vault.survey import LineState, Survey

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("volume", "line", "name", "site")
_GAUGES = (
    ("next_lsn", "LSN that is expected next"),
    ("visible_lsn", "LSN up to which readers see"),
    ("silent_seconds", "Seconds since the last shipment"),
    ("stored_bytes", "Bytes of the line's segments and index"),
    ("readable", "1, or 0 when the line can't be read"),
)


class Metrics:
    """The counters of a serving vault."""

    def __init__(self, root: VaultRoot) -> None:
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cdpfs_vault_requests", "Requests by status", ("status",), registry=self._registry
        )
        self._refusals = Counter(
            "cdpfs_vault_refusals", "Refusals by kind", ("kind",), registry=self._registry
        )
        self._received = Counter(
            "cdpfs_vault_received_bytes", "Bytes of bodies taken in", registry=self._registry
        )
        self._registry.register(_Lines(Survey(root)))

    def observe(self, status: int, body_bytes: int, error: Exception | None) -> None:
        """A request was answered, or its client went away (status 0)."""
        self._requests.labels(status=str(status)).inc()
        self._received.inc(body_bytes)
        if error is not None and status:
            self._refusals.labels(kind=type(error).__name__).inc()

    def text(self) -> bytes:
        """Everything, in the text format."""
        with self._lock:
            return generate_latest(self._registry)


class _Lines:
    """A collector that looks at the lines when it is asked."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: to look costs time, and there is nobody to tell yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One family for each gauge."""
        states = self._survey.lines()
        for key, text in _GAUGES:
            family = GaugeMetricFamily(f"cdpfs_vault_{key}", text, labels=_LABELS)
            for state in states:
                volume = state.volume
                labels = (volume.uuid, state.line, volume.description.name, volume.site)
                value = _value(state, key)
                if value is not None:
                    family.add_metric(labels, value)
            yield family


def _value(state: LineState, key: str) -> float | None:
    """None where there is nothing to tell."""
    if key == "readable":
        return 0.0 if state.trouble else 1.0
    if state.trouble:
        return None
    if key == "silent_seconds":
        return state.silent_s
    found: int = getattr(state, key)
    return float(found)
