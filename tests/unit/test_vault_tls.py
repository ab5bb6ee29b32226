"""TLS at the vault, on real connections: who gets in with which certificate, and renewing files."""

from __future__ import annotations

import datetime
import http.client
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypercorn.config import Config
from hypercorn.trio import serve

from replicator.errors import BadSettings
from replicator.vault.tls import ServerContext, TlsFiles, certificate, read_certificate

HOST = "localhost"


class Authority:
    """A vault's certificate, and the CA that signs those of sites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server_ca = trustme.CA()
        self.client_ca = trustme.CA()
        self.files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "client-ca.pem")
        self.renew()
        self.client_ca.cert_pem.write_to_path(str(self.files.client_ca))

    def renew(self) -> None:
        """A new certificate for the vault, under the same names."""
        issued = self.server_ca.issue_cert(HOST)
        issued.cert_chain_pems[0].write_to_path(str(self.files.certificate))
        issued.private_key_pem.write_to_path(str(self.files.key))

    def client(self, issued: trustme.LeafCert | None) -> ssl.SSLContext:
        """What a client with that certificate connects with."""
        context = ssl.create_default_context()
        self.server_ca.configure_trust(context)
        if issued is not None:
            issued.configure_cert(context)
        return context


async def _application(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Says who the client is by its certificate."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    shown = certificate.get()
    body = b"nobody" if shown is None else " ".join(shown.names).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Config(Config):
    """Hypercorn's, with our context."""

    context: ServerContext

    def create_ssl_context(self) -> ssl.SSLContext:
        return self.context


@asynccontextmanager
async def served(files: TlsFiles) -> AsyncIterator[int]:
    """A vault's port, while it serves."""
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    config = _Config()
    config.context = ServerContext(files)
    config.certfile = config.keyfile = "see the context"
    config.bind = [f"fd://{listener.detach()}"]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, _application, config, shutdown_trigger=stop.wait))
        try:
            yield port
        finally:
            stop.set()


def ask(port: int, context: ssl.SSLContext) -> str:
    """Who the vault takes us for. ssl.SSLError, OSError."""
    connection = http.client.HTTPSConnection(HOST, port, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


async def answer(port: int, context: ssl.SSLContext) -> str:
    return await trio.to_thread.run_sync(ask, port, context)


async def test_a_site_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one = authority.client(authority.client_ca.issue_cert("paris"))
    other = authority.client(authority.client_ca.issue_cert("rome"))
    common = authority.client_ca.issue_cert(common_name="oslo")
    async with served(authority.files) as port:
        assert await answer(port, one) == "paris"
        assert await answer(port, other) == "rome"
        assert await answer(port, one) == "paris"
        assert await answer(port, authority.client(common)) == "oslo"
        assert await answer(port, authority.client(None)) == "nobody"


@pytest.mark.expects_warnings
async def test_certificates_that_prove_nothing_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    bad = {
        "certificate has expired": authority.client_ca.issue_cert("paris", not_after=past),
        "unable to get local issuer certificate": trustme.CA().issue_cert("paris"),
    }
    async with served(authority.files) as port:
        for why, issued in bad.items():
            with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
                await answer(port, authority.client(issued))
            assert why in caplog.text
        assert await answer(port, authority.client(authority.client_ca.issue_cert("ok"))) == "ok"


async def test_without_a_client_ca_no_certificate_counts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.client_ca.issue_cert("paris")
    async with served(authority.files._replace(client_ca=None)) as port:
        assert await answer(port, authority.client(issued)) == "nobody"


async def test_a_client_knows_the_vault_by_name_and_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with served(authority.files) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await answer(port, ssl.create_default_context())
        context = authority.client(None)
        with (
            socket.create_connection((HOST, port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"),
        ):
            await trio.to_thread.run_sync(
                partial(context.wrap_socket, plain, server_hostname="elsewhere.example")
            )


@pytest.mark.parametrize("version", ["TLSv1_3", "TLSv1_2"])
async def test_versions_from_1_2_on_are_spoken(tmp_path: Path, version: str) -> None:
    authority = Authority(tmp_path)
    context = authority.client(authority.client_ca.issue_cert("paris"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with served(authority.files) as port:
        assert await answer(port, context) == "paris"


async def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.client(None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(authority.files) as port:
        with pytest.raises(ssl.SSLError):
            await answer(port, context)


@pytest.mark.expects_warnings
async def test_new_files_count_for_the_next_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    assert authority.files.client_ca is not None
    old = authority.client(authority.client_ca.issue_cert("paris"))
    async with served(authority.files) as port:
        before = await trio.to_thread.run_sync(ssl.get_server_certificate, (HOST, port))
        authority.renew()
        assert await answer(port, old) == "paris"
        after = await trio.to_thread.run_sync(ssl.get_server_certificate, (HOST, port))
        assert before != after
        authority.files.key.write_text("nonsense")
        assert await answer(port, old) == "paris"
        assert "stay in use" in caplog.text
        authority.renew()
        another = trustme.CA()
        another.cert_pem.write_to_path(str(authority.files.client_ca))
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            await answer(port, old)
        assert await answer(port, authority.client(another.issue_cert("oslo"))) == "oslo"


def test_files_that_are_none_are_refused_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ServerContext(authority.files)
    for name in authority.files:
        assert name is not None
        whole = name.read_bytes()
        name.write_text("nonsense")
        with pytest.raises(BadSettings):
            ServerContext(authority.files)
        name.write_bytes(whole)
    with pytest.raises(BadSettings):
        ServerContext(authority.files._replace(certificate=tmp_path / "missing"))


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key = load_pem_private_key(authority.files.key.read_bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    authority.files.key.write_bytes(locked)
    with pytest.raises(BadSettings, match="can't be used"):
        ServerContext(authority.files)


def test_names_are_alternatives_before_the_common_name() -> None:
    ca = trustme.CA()
    for issued, names in (
        (ca.issue_cert("paris", common_name="rome"), ("paris",)),
        (ca.issue_cert("paris", "rome"), ("paris", "rome")),
        (ca.issue_cert(common_name="rome"), ("rome",)),
        (ca.issue_cert("user@example.com", common_name="rome"), ("rome",)),
    ):
        der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
        found = read_certificate(der)
        assert found.names == names and not found.expired and len(found.fingerprint) == 64
