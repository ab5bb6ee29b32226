"""Hostile clients of a vault: refused with a status that says why, logged, and nothing changed."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.shipment import SHIPMENT_BATCH, SHIPMENT_HEADER
from replicator.vault.limits import Limits
from replicator.vault.root import VaultRoot
from replicator.wire import MAX_MESSAGE_BYTES, MAX_SHIPMENT_BYTES, shipment_id
from store.volume import Store
from tests.unit.shipping import BRANCH, make_history, shipments
from tests.unit.vault_scene import OTHER, Scene, status_in
from tests.unit.vault_server import VaultServer, refusal_in

pytestmark = pytest.mark.expects_warnings


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_history(tmp_path_factory.mktemp("site"), rounds=4)


@pytest.fixture
def scene(tmp_path: Path, source: Store) -> Iterator[Scene]:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault", Limits(linger_s=0.2)) as server:
        yield Scene(server, source)


def test_strangers_are_refused(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    revoked = scene.server.sites.add("gone", "site")
    scene.server.sites.revoke("gone", everything=True)
    scene.before = scene.files()
    with caplog.at_level(logging.INFO):
        for token in ("", "x", revoked, scene.token[:-1], scene.token + "A", "ü" * 50):
            with httpx.Client(base_url=scene.server.url, trust_env=False) as http:
                headers = {"cdpfs-protocol": "1"}
                if token:
                    headers["Authorization"] = f"Bearer {token}"
                for method, path in (
                    ("GET", "/v1/hello"),
                    ("PUT", f"/v1/volumes/{scene.uuid}"),
                    ("PUT", f"/v1/volumes/{scene.uuid}/shipments/{shipment_id(b'x')}"),
                    ("GET", f"/v1/volumes/{scene.uuid}/position"),
                    ("GET", "/nowhere"),
                ):
                    raw = {key: value.encode() for key, value in headers.items()}
                    answer = http.request(method, path, headers=raw, content=b"x" * 1000)
                    refusal = refusal_in(answer, 401)
                    assert refusal.kind == "BadToken"
                    assert refusal.hint
    assert scene.unchanged()
    secrets = [token.rsplit("_", 1)[-1] for token in (revoked, scene.token)]
    assert "refused with 401" in caplog.text
    assert not any(secret in caplog.text for secret in secrets)


def test_a_site_gets_at_its_own_volumes_only(scene: Scene) -> None:
    with scene.client(scene.rival) as rival:
        refusal_in(rival.http.get(f"/v1/volumes/{scene.uuid}/position"), 403)
        refusal_in(rival.describe(scene.uuid, BRANCH), 403)
        refusal_in(rival.ship(scene.uuid, scene.next), 403)
    with scene.client(scene.reader) as reader:
        refusal_in(reader.describe("cd" * 16, BRANCH), 403)
        refusal_in(reader.describe(scene.uuid, BRANCH), 403)
        refusal_in(reader.ship(scene.uuid, scene.next), 403)
    with scene.client() as site:
        assert refusal_in(site.ship("cd" * 16, scene.next), 404).kind == "UnknownVolume"
    assert scene.unchanged()


def test_another_protocol_is_refused_by_name(scene: Scene) -> None:
    with scene.client() as site:
        for version in ("2", "", "1, 1", "x" * 100):
            site.http.headers["cdpfs-protocol"] = version
            refusal_in(site.http.get("/v1/hello"), 403)
    assert scene.unchanged()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/volumes/../sites/branch.toml/position",
        "/v1/volumes/%2e%2e/position",
        "/v1/volumes/%2e%2e%2fsites%2fbranch.toml/position",
        "/v1/volumes/{UUID}/position",
        "/v1/volumes/{uuid}%00/position",
        "/v1/volumes/{uuid}%0a/position",
        "/v1/volumes/{uuid}/position?line=../main",
        "/v1/volumes/{uuid}/position?line=..%2f..%2fsites",
        "/v1/volumes/{uuid}/position?line=main%00",
        "/v1/volumes/{uuid}/position?line=main%0a",
        "/v1/volumes/{uuid}/position?line=",
        "/v1/volumes/{uuid}/position?line=incoming",
        "/v1/volumes/{uuid}/position/",
        "//v1/hello",
        "/v1/hello/..",
        "/../../etc/passwd",
        "http://elsewhere/v1/hello?x",
        "*",
        "/" + "x" * 9000,
        "/v1/hello?" + "x" * 9000,
    ],
)
def test_paths_lead_nowhere_else(scene: Scene, target: str) -> None:
    path = target.replace("{uuid}", scene.uuid).replace("{UUID}", scene.uuid.upper())
    status = status_in(scene.raw(scene.head(f"GET {path} HTTP/1.1", "Connection: close")))
    # A query that nobody asked for changes nothing; everything else is refused.
    assert 400 <= status < 500 or (status, "?x" in target) == (200, True)
    assert scene.unchanged()


@pytest.mark.parametrize("name", ["..%2fx", "x", "0" * 31, "0" * 33, "%00" * 32, "G" * 32])
def test_shipments_are_named_by_their_ids(scene: Scene, name: str) -> None:
    line = f"PUT /v1/volumes/{scene.uuid}/shipments/{name} HTTP/1.1"
    request = scene.head(line, "Content-Length: 1", "Content-Range: bytes 0-0/1") + b"x"
    assert status_in(scene.raw(request)) in (400, 404)
    assert scene.unchanged()


@pytest.mark.parametrize(
    ("span", "status"),
    [
        ("", 400),
        ("bytes", 400),
        ("bytes 0-9/9", 400),
        ("bytes 0-9/10,0-9/10", 400),
        ("bytes 9-0/10", 400),
        ("bytes 0-8/10", 400),
        ("bytes 1-10/11", 409),
        ("bytes */10", 400),
        ("bytes 0-9/*", 400),
        ("bytes -5-4/10", 400),
        ("bytes 0-9/10 ", 200),
        ("items 0-9/10", 400),
        (f"bytes 0-9/{MAX_SHIPMENT_BYTES + 1}", 413),
        ("bytes 0-9/999999999999", 413),
        ("bytes 0-9/9999999999999", 400),
        ("bytes \N{ARABIC-INDIC DIGIT ZERO}-9/10", 400),
    ],
)
def test_a_content_range_is_taken_at_its_word(scene: Scene, span: str, status: int) -> None:
    line = f"PUT /v1/volumes/{scene.uuid}/shipments/{shipment_id(bytes(10))} HTTP/1.1"
    raw = f"Content-Range: {span}".encode().decode("latin1")
    answer = scene.raw(scene.head(line, "Content-Length: 10", raw) + bytes(10))
    # The last but one is a right range; the bytes are none that make a shipment.
    assert status_in(answer) == (422 if status == 200 else status)
    assert scene.unchanged()


def test_bodies_that_are_too_long_are_refused_before_they_are_read(scene: Scene) -> None:
    for path, most in (
        (f"/v1/volumes/{scene.uuid}", MAX_MESSAGE_BYTES),
        (f"/v1/volumes/{scene.uuid}/shipments/{shipment_id(b'x')}", MAX_SHIPMENT_BYTES),
    ):
        for length in (most + 1, 1 << 62, 10**30):
            answer = scene.raw(scene.head(f"PUT {path} HTTP/1.1", f"Content-Length: {length}"))
            assert status_in(answer) in (400, 413)
    assert scene.unchanged()


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 10", "Content-Length: 11"],
        ["Content-Length: 10", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: +10"],
        ["Content-Length: 0x0a"],
        ["Content-Length: -1"],
        ["Content-Length: 10, 11"],
        ["Authorization: Bearer x"],
        ["Host: other"],
        ["Content-Length: 10\n\tfolded"],
        ["X: \0"],
        ["X" * 20_000 + ": 1"],
        [f"X{number}: {'y' * 1000}" for number in range(30)],
        ["Expect: 200-maybe", "Content-Length: x"],
    ],
)
def test_ambiguous_heads_are_refused(scene: Scene, headers: list[str]) -> None:
    """What two programs could read differently is how requests are smuggled."""
    line = f"PUT /v1/volumes/{scene.uuid}/shipments/{shipment_id(bytes(10))} HTTP/1.1"
    request = scene.head(line, "Content-Range: bytes 0-9/10", *headers)
    smuggled = b"\r\n\r\nGET /v1/hello HTTP/1.1\r\nHost: v\r\n\r\n"
    answer = scene.raw(request + b"0123456789" + smuggled)
    assert 400 <= status_in(answer) < 500 or status_in(answer) == 501
    assert answer.count(b"HTTP/1.1 ") == 1
    assert scene.unchanged()


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        (
            b"GET /v1/hello HTTP/1.1\r\nHost: v\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\n\r\n"
        ),
        (
            b"GET /v1/hello HTTP/1.1\r\nHost: v\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ),
        b"GET /\xff HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET /v1/hello?\xff HTTP/1.1\r\nHost: v\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_other_protocols_get_nowhere(scene: Scene, bytes_sent: bytes) -> None:
    answer = scene.raw(bytes_sent, ends=True)
    assert answer == b"" or 400 <= status_in(answer) < 500
    assert scene.unchanged()


@pytest.mark.parametrize("method", ["DELETE", "POST", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_history_can_not_be_taken_away(scene: Scene, method: str) -> None:
    with scene.client() as site:
        for path in ("", "/position", f"/shipments/{shipment_id(b'x')}"):
            answer = site.http.request(method, f"/v1/volumes/{scene.uuid}{path}")
            assert 400 <= answer.status_code < 500
    assert scene.unchanged()


def test_replays_change_nothing(scene: Scene) -> None:
    with scene.client() as site:
        for data in list(shipments(scene.source, 1))[:2] * 3:
            assert site.ship(scene.uuid, data).status_code == 200
    assert scene.unchanged()


def _bomb(data: bytes, body: bytes, raw_bytes: int | None = None) -> bytes:
    """A shipment with a header that checks and another body."""
    import xxhash

    fields = SHIPMENT_HEADER.unpack(data)
    directory = data[
        SHIPMENT_HEADER.size_bytes : SHIPMENT_HEADER.size_bytes
        + fields["batch_count"] * SHIPMENT_BATCH.size_bytes
    ]
    if raw_bytes is not None:
        fields["raw_bytes"] = raw_bytes
    head = SHIPMENT_HEADER.pack(**{**fields, "encoding": 0})[:-8]
    return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + directory)) + directory + body


def test_decompression_bombs_are_refused(scene: Scene) -> None:
    raw_bytes = SHIPMENT_HEADER.unpack(scene.next)["raw_bytes"]
    giant = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    stream = zstandard.ZstdCompressor().compressobj()
    unsized = stream.compress(bytes(1 << 28)) + stream.flush()
    with scene.client() as site:
        for data in (
            _bomb(scene.next, giant),
            _bomb(scene.next, unsized),
            _bomb(scene.next, giant, 1 << 28),
            _bomb(scene.next, giant, 1 << 60),
            _bomb(scene.next, zstandard.ZstdCompressor().compress(bytes(raw_bytes))),
            _bomb(scene.next, b""),
        ):
            assert refusal_in(site.ship(scene.uuid, data), 422).kind == "BadShipment"
    assert scene.unchanged()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_damaged_shipments_are_refused(scene: Scene, data: st.DataObject) -> None:
    spoiled = bytearray(scene.next)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(spoiled) - 1))
        spoiled[at] ^= data.draw(st.integers(1, 255))
    del spoiled[data.draw(st.integers(1, len(spoiled))) :]
    with scene.client() as site:
        if bytes(spoiled) != scene.next:
            answer = site.ship(scene.uuid, bytes(spoiled))
            assert answer.status_code in (409, 422), answer.text
        site.position(scene.uuid)
    assert scene.files() == scene.before


TOKENS = st.sampled_from(["good", "rival", "none", "bad"])
SEGMENTS = st.sampled_from(
    [
        "v1",
        "volumes",
        "UUID",
        "OTHER",
        "main",
        "shipments",
        "position",
        "hello",
        "..",
        "%2e",
        "",
        "é",
    ]
) | st.text(max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "POST", "DELETE"]),
    segments=st.lists(SEGMENTS, max_size=7),
    query=st.text(max_size=12),
    token=TOKENS,
    headers=st.dictionaries(
        st.sampled_from(["content-range", "range", "accept", "cdpfs-protocol", "x"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        max_size=3,
    ),
    body=st.binary(max_size=300),
)
def test_no_request_is_too_strange(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    method: str,
    segments: list[str],
    query: str,
    token: str,
    headers: dict[str, str],
    body: bytes,
) -> None:
    path = "/" + "/".join(segments).replace("UUID", scene.uuid).replace("OTHER", OTHER)
    tokens = {"good": scene.token, "rival": scene.rival, "bad": scene.token[:-2]}
    sent = {"cdpfs-protocol": "1", **headers}
    if token in tokens:
        sent["Authorization"] = f"Bearer {tokens[token]}"
    target = f"{quote(path, safe='/%')}?{quote(query)}"
    with httpx.Client(base_url=scene.server.url, trust_env=False) as http:
        try:
            answer = http.request(method, target, headers=sent, content=body)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert answer.status_code == 401 or token in ("good", "rival") or path == "/metrics"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert scene.files() == scene.before


def test_a_truncated_body_is_no_shipment(scene: Scene) -> None:
    data = scene.next
    line = f"PUT /v1/volumes/{scene.uuid}/shipments/{shipment_id(data)} HTTP/1.1"
    span = f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}"
    scene.raw(scene.head(line, f"Content-Length: {len(data)}", span) + data[:-1], ends=True)
    with scene.client() as site:
        position = site.position(scene.uuid)
        assert position.partial is not None
        assert position.partial.received_bytes == len(data) - 1
    segments = {name: raw for name, raw in scene.files().items() if "/incoming/" not in name}
    assert segments == scene.before


def test_a_quota_is_kept(scene: Scene) -> None:
    path = scene.server.root.sites_dir / "branch.toml"
    path.write_text(path.read_text().replace("quota_bytes = 0", "quota_bytes = 1000"))
    with scene.client() as site:
        refusal = refusal_in(site.ship(scene.uuid, scene.next), 507)
        assert refusal.kind == "QuotaUsedUp"
        assert site.position(scene.uuid).partial is None
    path.write_text(path.read_text().replace("quota_bytes = 1000", "quota_bytes = 0"))
    assert scene.unchanged()
