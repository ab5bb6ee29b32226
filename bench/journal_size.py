"""Study: bytes of journal (segments and index) per byte of payload, by content and write size."""

from __future__ import annotations

import os
from pathlib import Path

from bench.content import Content
from bench.plan import DESIGN, Figure, Scale, Study
from bench.targets import Volume

_LIMITS = {"text": 0.5, "random": 1.03}
_WRITES = {4 << 10: "4 KiB", 1 << 20: "1 MiB"}


def _measure(work: Path, scale: Scale) -> list[Figure]:
    found = []
    for kind, limit in _LIMITS.items():
        for write_bytes, size in _WRITES.items():
            segments, index = _weigh(work / f"{kind}-{write_bytes}", scale, kind, write_bytes)
            ratio = segments + index
            found.append(
                Figure(
                    f"{kind}, {size} writes: journal ÷ payload",
                    f"{ratio:.3f} (segments {segments:.3f} + index {index:.3f})",
                    f"≤ {limit} ({DESIGN})",
                    ratio <= limit,
                )
            )
    return found


def _weigh(work: Path, scale: Scale, kind: str, write_bytes: int) -> tuple[float, float]:
    """Segment and index bytes per payload byte of a fresh volume with one file."""
    directory = work / "volume"
    directory.mkdir(parents=True)
    with Volume(directory, work / "store", work / "home", scale.ring_file_bytes) as volume:
        volume.mount()
        volume.sync()
        before = volume.status()
        fd = os.open(directory / "file", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for block in Content().blocks(kind, scale.journal_bytes, write_bytes):
                os.write(fd, block)
        finally:
            os.close(fd)
        volume.sync()
        after = volume.status()
    payload, segments, index = (
        after[key] - before[key] for key in ("payload_bytes", "segment_bytes", "index_bytes")
    )
    return segments / payload, index / payload


STUDIES = (Study("journal", "What the journal takes", _measure),)
