"""Small tar archives in blocks, as they go to a drive."""

from __future__ import annotations

import io
import tarfile


def tar_blocks(files: dict[str, bytes], block_bytes: int) -> list[bytes]:
    """An archive of these files; its last block is filled up with zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = out.getvalue()
    data += bytes(-len(data) % block_bytes)
    return [data[at : at + block_bytes] for at in range(0, len(data), block_bytes)]
