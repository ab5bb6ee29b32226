"""HTTP through a meter, over loopback: what is counted is what went over the connection."""

import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from replicator.bucket import UNLIMITED
from replicator.meter import BucketMeter
from replicator.metered import PATIENCE, transport

ROOT = Path(__file__).resolve().parents[2]
BODY = b"0123456789abcdef" * (1 << 14)


class Running:
    """A sink in a process: its address, and what proves it."""

    def __init__(self, host: str, authority: trustme.CA | None, folder: Path) -> None:
        arguments = [host, "0"]
        self.tls: ssl.SSLContext | None = None
        if authority is not None:
            certificate = authority.issue_cert(host)
            chain, key = folder / "chain.pem", folder / "key.pem"
            chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
            certificate.private_key_pem.write_to_path(key)
            arguments += [str(chain), str(key)]
            self.tls = ssl.create_default_context()
            authority.configure_trust(self.tls)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.network.sink", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        scheme = "http" if authority is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def client(self, meter: BucketMeter) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=transport(meter, self.tls), timeout=PATIENCE, base_url=self.url
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["http", "https", "ipv6"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    authority = trustme.CA() if request.param == "https" else None
    running = Running("::1" if request.param == "ipv6" else "127.0.0.1", authority, tmp_path)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def plain_sink(tmp_path: Path) -> Iterator[Running]:
    running = Running("127.0.0.1", None, tmp_path)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def secure_sink(tmp_path: Path) -> Iterator[Running]:
    running = Running("127.0.0.1", trustme.CA(), tmp_path)
    try:
        yield running
    finally:
        running.end()


async def test_uploads_and_downloads_arrive_whole_and_are_counted(sink: Running) -> None:
    meter = BucketMeter()
    async with sink.client(meter) as client:
        answer = await client.put("/", content=BODY)
        assert answer.text == str(len(BODY))
        assert len((await client.get("/100000")).content) == 100_000
    assert len(BODY) < meter.sent_bytes < 1.1 * len(BODY) + 5000
    assert 100_000 < meter.received_bytes < 130_000


async def test_one_connection_serves_request_after_request(plain_sink: Running) -> None:
    meter = BucketMeter()
    async with plain_sink.client(meter) as client:
        streams = []
        for _ in range(3):
            async with client.stream("GET", "/10") as answer:
                streams.append(answer.extensions["network_stream"].get_extra_info("client_addr"))
                await answer.aread()
    assert len(set(streams)) == 1


async def test_an_upload_takes_as_long_as_its_rate_says(sink: Running) -> None:
    rate_bps = 2_000_000
    meter = BucketMeter(rate_bps)
    async with sink.client(meter) as client:
        begun = trio.current_time()
        await client.put("/", content=BODY)
        took_s = trio.current_time() - begun
    assert took_s >= len(BODY) * 8 / rate_bps / 1.05


async def test_a_pause_outlasts_every_time_out_and_a_new_rate_is_taken_up_at_once(
    secure_sink: Running,
) -> None:
    meter = BucketMeter(0)
    impatient = httpx.Timeout(0.5, pool=None)
    async with secure_sink.client(meter) as client, trio.open_nursery() as nursery:
        answers: list[httpx.Response] = []

        async def upload() -> None:
            answers.append(await client.put("/", content=BODY, timeout=impatient))

        nursery.start_soon(upload)
        await trio.sleep(1.0)
        assert meter.sent_bytes == 0
        meter.set_rate(8_000_000)
        await trio.sleep(0.1)
        meter.set_rate(0)
        sent = meter.sent_bytes
        await trio.sleep(1.0)
        assert 0 < sent < len(BODY)
        assert meter.sent_bytes - sent < 5000
        assert not answers
        meter.set_rate(UNLIMITED)
    assert answers[0].text == str(len(BODY))


async def test_a_cancelled_upload_leaves_the_next_one_whole(plain_sink: Running) -> None:
    meter = BucketMeter(1_000_000)
    async with plain_sink.client(meter) as client:
        with trio.move_on_after(0.3) as scope:
            await client.put("/", content=BODY)
        assert scope.cancelled_caught
        meter.set_rate(UNLIMITED)
        assert (await client.put("/", content=BODY)).text == str(len(BODY))


async def test_a_body_may_come_in_pieces(plain_sink: Running) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    async with plain_sink.client(BucketMeter(UNLIMITED)) as client:
        answer = await client.put("/", content=pieces(), headers={"Content-Length": str(100_000)})
    assert answer.text == "100000"


async def test_a_server_that_does_not_answer_is_given_up_by_name(plain_sink: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with plain_sink.client(BucketMeter()) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, timeout=httpx.Timeout(0.2, pool=None))


async def test_nobody_listening_is_a_connect_error(plain_sink: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    async with plain_sink.client(BucketMeter()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_a_certificate_of_a_stranger_is_refused(secure_sink: Running) -> None:
    strict = ssl.create_default_context()
    async with httpx.AsyncClient(transport=transport(BucketMeter(), strict)) as client:
        with pytest.raises(httpx.ConnectError, match="certificate") as caught:
            await client.get(secure_sink.url)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    assert cause is not None
