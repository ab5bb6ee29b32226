"""What `cdpfs tape status` says, as a Prometheus server reads it: for node_exporter's textfiles.

Duty: from the JSON of `tape_status` to metrics. It opens nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

_OF_POOLS = (
    ("barrier_age_s", "barrier_age_seconds", "Age of the newest barrier on tape"),
    ("lag_s", "lag_seconds", "Age of the oldest change that is not on tape"),
    ("waiting_bytes", "waiting_bytes", "Bytes of the journal that are not on tape"),
    ("usable", "usable", "1 when the volume can be brought back from this pool"),
)


def metrics_text(gathered: dict[str, Any]) -> str:
    """In the text format."""
    registry = CollectorRegistry()
    registry.register(_Status(gathered))
    return generate_latest(registry).decode()


class _Status:
    """A collector of what was gathered once."""

    def __init__(self, gathered: dict[str, Any]) -> None:
        self._gathered = gathered

    def collect(self) -> Iterable[Metric]:
        """One family for each gauge."""
        if self._gathered["volume"] is not None:
            yield from self._pools(self._gathered["volume"])
        home = self._gathered["library"]["home"]
        found = self._gathered
        for key, text, value in (
            ("free_cartridges", "Cartridges that may be written", found["free_cartridges"]),
            ("recyclable_cartridges", "Those that may be recycled", len(found["recyclable"])),
            ("alarms", "Things that need a person", len(found["alarms"])),
        ):
            family = _gauge(key, text, "library")
            family.add_metric([home], value)
            yield family
        yield self._cartridges(home)
        drives = _gauge("drive_faults", "How often a drive failed", "library", "drive")
        for drive in self._gathered["drives"]:
            drives.add_metric([home, str(drive["number"])], drive["faults"])
        yield drives

    def _pools(self, volume: dict[str, Any]) -> Iterable[Metric]:
        for key, name, text in _OF_POOLS:
            family = _gauge(name, text, "volume", "pool")
            for pool in volume["pools"]:
                if pool[key] is not None:
                    family.add_metric([volume["name"], pool["pool"]], float(pool[key]))
            yield family

    def _cartridges(self, home: str) -> Metric:
        family = _gauge("cartridges", "Cartridges on the books", "library", "pool", "state")
        counted = Counter((each["pool"], each["state"]) for each in self._gathered["cartridges"])
        for (pool, state), count in sorted(counted.items()):
            family.add_metric([home, pool, state], count)
        return family


def _gauge(key: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cdpfs_tape_{key}", text, labels=labels)
