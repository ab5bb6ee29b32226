"""Uploads without end through a metered transport, as a process of its own.

`python -m tests.network.uploader URL CA RATE` (CA empty for http) takes commands on the standard
input: `rate BPS` (0: pause, inf: none) and `end`; it answers each with what it sent so far.
"""

import json
import ssl
import sys
from collections.abc import AsyncIterator

import httpx
import trio

from replicator.meter import BucketMeter
from replicator.metered import PATIENCE, transport

BODY_BYTES = 1 << 40
PIECE = bytes(1 << 16)


async def pieces() -> AsyncIterator[bytes]:
    while True:
        yield PIECE


async def upload(client: httpx.AsyncClient) -> None:
    await client.put("/", content=pieces(), headers={"Content-Length": str(BODY_BYTES)})


async def obey(meter: BucketMeter, scope: trio.CancelScope) -> None:
    commands = trio.lowlevel.FdStream(0)
    asked = b""
    async for data in commands:
        asked += data
        while b"\n" in asked:
            line, asked = asked.split(b"\n", 1)
            word, *rest = line.decode().split()
            if word == "end":
                scope.cancel()
                return
            meter.set_rate(float(rest[0]))
            print(json.dumps({"sent": meter.sent_bytes}), flush=True)


async def main(url: str, ca: str, rate: str) -> None:
    meter = BucketMeter(float(rate))
    tls = ssl.create_default_context(cafile=ca) if ca else None
    async with (
        httpx.AsyncClient(
            transport=transport(meter, tls), timeout=PATIENCE, base_url=url, trust_env=False
        ) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(obey, meter, nursery.cancel_scope)
        print(json.dumps({"started": True}), flush=True)
        await upload(client)
    print(json.dumps({"sent": meter.sent_bytes}), flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
