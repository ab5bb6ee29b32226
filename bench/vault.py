"""Study: how fast a vault takes shipments in, by itself and over HTTP on loopback.

Two histories come from a real mount: large writes (bytes count) and small ones with syncs (ops
count). Their shipments are made beforehand, of about SHIPMENT_BYTES each. `in process` is
`LineWriter.take`: decode, make the batches again, compare digests, append, sync, index, commit.
`over HTTP` is all of `cdpfs vault serve`, one request after the other, as one sender sends.
"""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.content import Content
from bench.plan import Figure, Scale, Study
from bench.processes import cpu_seconds
from bench.targets import ROOT, Volume
from replicator.effort import Effort
from replicator.held import JournalHeld
from replicator.shipment import Known, ShippedBatch, encode_shipment
from replicator.sketch import Sketch
from replicator.vault.ingest import LineWriter
from replicator.vault.root import VaultRoot
from replicator.vault.sites import Sites
from replicator.wire import PROTOCOL, PROTOCOL_HEADER, Description, shipment_id
from store.batch import NO_DIGEST
from store.indexer import keep_memory
from store.journal import Journal
from store.types import Lsn
from store.volume import Store

SHIPMENT_BYTES = 16 << 20
"""Metadata and payload in a shipment."""

_PAGE = 4096
_SYNC_EVERY = 16
_META_BYTES = 56


@dataclass(frozen=True)
class _Load:
    """Shipments of a history, and what is in them."""

    store: Store
    shipments: list[bytes]
    payload_bytes: int
    ops: int


def _measure(work: Path, scale: Scale) -> list[Figure]:
    keep_memory()
    found = []
    for name, make in (("1 MiB writes", _large_writes), ("4 KiB writes and syncs", _small_writes)):
        folder = work / name.split()[0]
        store = _history(folder, scale, make)
        for effort in (Effort.FAST, Effort.GOOD):
            load = _load(store, effort)
            title = f"{name}, {effort.value} shipments"
            found.append(_in_process(folder / f"own-{effort.value}", title, load))
            found.append(_over_http(folder / f"http-{effort.value}", title, load))
    return found


def _large_writes(directory: Path, scale: Scale) -> None:
    Content().write_file(directory / "large", "mixed", scale.file_bytes * 2)


def _small_writes(directory: Path, scale: Scale) -> None:
    """Pages at random places of a file, some of them synced."""
    rng, blocks = random.Random(1), Content().blocks("text", 8 << 20, _PAGE)
    pages = list(blocks)
    fd = os.open(directory / "pages", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number in range(2_000 if scale.short else 40_000):
            os.pwrite(fd, rng.choice(pages), rng.randrange(8192) * _PAGE)
            if number % _SYNC_EVERY == 0:
                os.fdatasync(fd)
    finally:
        os.close(fd)


def _history(folder: Path, scale: Scale, make: object) -> Store:
    directory = folder / "volume"
    directory.mkdir(parents=True)
    with Volume(directory, folder / "store", folder / "home", scale.ring_file_bytes) as volume:
        volume.mount()
        assert callable(make)
        make(directory, scale)
        volume.sync()
    return Store.open(folder / "store")


def _load(store: Store, effort: Effort) -> _Load:
    shipments, sketch = [], Sketch()
    payload_bytes = ops = 0
    with Journal(store) as journal, journal.snapshot() as snapshot:
        previous, group, size = NO_DIGEST, list[ShippedBatch](), 0
        for place in snapshot.batches(Lsn(1)):
            group.append(ShippedBatch(snapshot.read_batch(place)[1], place.digest))
            count = place.last_lsn - place.first_lsn + 1
            size += place.payload_bytes + count * _META_BYTES
            payload_bytes, ops = payload_bytes + place.payload_bytes, ops + count
            if size < SHIPMENT_BYTES and place.last_lsn < snapshot.indexed_lsn:
                continue
            mine = JournalHeld(snapshot, group[0].ops[0].lsn)
            known = Known(mine, sketch, mine.older)
            shipments.append(encode_shipment(store.uuid, previous, group, known, effort))
            previous, group, size = place.digest, [], 0
    return _Load(store, shipments, payload_bytes, ops)


def _in_process(folder: Path, title: str, load: _Load) -> Figure:
    folder.mkdir()
    line, _ = _vault(folder, load.store)
    writer = LineWriter.open(line)
    start, cpu = time.monotonic(), time.process_time()
    for data in load.shipments:
        writer.take(data)
    figure = _figure(f"{title}, in process", load, start, time.process_time() - cpu)
    writer.close()
    return figure


def _over_http(folder: Path, title: str, load: _Load) -> Figure:
    folder.mkdir()
    _, token = _vault(folder, load.store)
    command = [sys.executable, "-P", "-m", "console", "vault", "serve", "--insecure-http"]
    command += ["--root", str(folder / "vault"), "--listen", "127.0.0.1:0"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with (folder / "log").open("w") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            url = urlsplit(server.stdout.readline().split()[-1])
            assert url.hostname
            connection = http.client.HTTPConnection(url.hostname, url.port or 0)
            _send(connection, token, load, load.shipments[:0])
            start, cpu = time.monotonic(), cpu_seconds(server.pid)
            _send(connection, token, load, load.shipments)
            figure = _figure(f"{title}, over HTTP", load, start, cpu_seconds(server.pid) - cpu)
            connection.close()
        finally:
            server.terminate()
    return figure


def _send(
    connection: http.client.HTTPConnection, token: str, load: _Load, shipments: list[bytes]
) -> None:
    headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": f"Bearer {token}"}
    base = f"/v1/volumes/{load.store.config.uuid}"
    _ask(connection, "GET", f"{base}/position", b"", headers)
    for data in shipments:
        span = {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
        _ask(connection, "PUT", f"{base}/shipments/{shipment_id(data)}", data, headers | span)


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
) -> None:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {said.decode()}")


def _vault(folder: Path, store: Store) -> tuple[Store, str]:
    """A new vault that knows the volume: the store of its line, and its site's token."""
    root = VaultRoot.create(folder / "vault")
    known = Description(name="bench", directory="/bench", created_ns=1)
    root.create_volume("bench", store.config.uuid, known)
    return root.store(store.config.uuid), Sites(root.sites_dir).add("bench", "site")


def _figure(title: str, load: _Load, start: float, cpu_s: float) -> Figure:
    took_s = time.monotonic() - start
    wire = sum(map(len, load.shipments))
    return Figure(
        title,
        f"{load.payload_bytes / took_s / 1e6:.0f} MB/s of payload, {load.ops / took_s:,.0f} ops/s; "
        f"{load.payload_bytes / cpu_s / 1e6:.0f} MB, {load.ops / cpu_s:,.0f} ops per CPU second "
        f"({load.payload_bytes / 1e6:.0f} MB, {load.ops:,} ops, {wire / 1e6:.1f} MB on the wire)",
    )


STUDIES = (Study("vault", "Taking shipments in at a vault", _measure),)
