"""Sites that come by certificate: each is let in as itself, to its own volumes, and nobody else."""

from __future__ import annotations

import datetime
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from console import vaults
from replicator.errors import BadRequest, BadSettings, BadToken, Refused, VaultExists
from replicator.link import Link, tls_context
from replicator.meter import BucketMeter
from replicator.metered import transport
from replicator.settings import LinkSettings
from replicator.vault.root import VaultRoot
from replicator.vault.serve import Listen
from replicator.vault.sites import Sites
from replicator.vault.tls import read_certificate
from replicator.wire import Hello
from tests.unit.shipping import BRANCH, make_history, shipments
from tests.unit.vault_server import SiteClient, VaultServer, refusal_in

HOST = "127.0.0.1"
UUID = "ab" * 16


class Authority:
    """The vault's certificate, and the CA of the sites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server_ca, self.client_ca = trustme.CA(), trustme.CA()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.ca, self.clients = folder / "ca.pem", folder / "clients.pem"
        self.renew()
        self.server_ca.cert_pem.write_to_path(str(self.ca))
        self.client_ca.cert_pem.write_to_path(str(self.clients))

    def renew(self) -> None:
        issued = self.server_ca.issue_cert(HOST, "localhost")
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        issued.private_key_pem.write_to_path(str(self.key))

    def listen(self) -> Listen:
        return Listen(HOST, 0, str(self.cert), str(self.key), client_ca=str(self.clients))

    def trusting(self, issued: trustme.LeafCert | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if issued is not None:
            issued.configure_cert(context)
        return context

    def site(self, *names: str) -> ssl.SSLContext:
        return self.trusting(self.client_ca.issue_cert(*names))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[VaultServer]:
    VaultRoot.create(tmp_path / "vault")
    with VaultServer(tmp_path / "vault", context=authority.listen().context()) as running:
        for name in ("paris", "rome"):
            running.sites.add_by_certificate(name, "site")
        yield running


def come(server: VaultServer, context: ssl.SSLContext, token: str | None = None) -> SiteClient:
    client = SiteClient(server.url, token or "", verify=context)
    if token is None:
        del client.http.headers["Authorization"]
    return client


def fingerprint(issued: trustme.LeafCert) -> str:
    return read_certificate(
        ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    ).fingerprint


def site_of(client: SiteClient) -> str:
    answer = client.http.get("/v1/hello")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["site"])


def test_a_site_works_by_certificate_alone(
    server: VaultServer, authority: Authority, tmp_path: Path
) -> None:
    store = make_history(tmp_path / "site", rounds=2)
    uuid = store.config.uuid
    with come(server, authority.site("paris")) as paris:
        assert site_of(paris) == "paris"
        assert paris.describe(uuid, BRANCH).status_code == 200
        for data in shipments(store):
            assert paris.ship(uuid, data).status_code == 200
        assert paris.position(uuid).next_lsn > 1


@pytest.mark.expects_warnings
def test_a_certificate_of_one_site_does_nothing_to_the_volumes_of_another(
    server: VaultServer, authority: Authority, tmp_path: Path
) -> None:
    store = make_history(tmp_path / "site", rounds=1)
    uuid = store.config.uuid
    data = next(shipments(store))
    with (
        come(server, authority.site("paris")) as paris,
        come(server, authority.site("rome")) as rome,
    ):
        assert site_of(rome) == "rome"
        assert paris.describe(uuid, BRANCH).status_code == 200
        assert rome.describe(uuid, BRANCH).status_code in (403, 404)
        assert rome.ship(uuid, data).status_code in (403, 404)
        assert rome.http.get(f"/v1/volumes/{uuid}/position").status_code in (403, 404)
        assert paris.position(uuid).next_lsn == 1
        assert paris.ship(uuid, data).status_code == 200


@pytest.mark.expects_warnings
def test_certificates_that_are_no_sites_are_refused_by_name(
    server: VaultServer, authority: Authority
) -> None:
    server.sites.add("oslo", "site")
    for names, why in (
        (("london",), "not that of a site of this vault"),
        (("oslo",), "does not come by certificate"),
        (("paris", "rome"), "2 names"),
        (("..",), "not that of a site of this vault"),
    ):
        issued = authority.client_ca.issue_cert(common_name=names[0]) if names == ("..",) else None
        context = authority.trusting(issued) if issued else authority.site(*names)
        with come(server, context) as client:
            assert why in refusal_in(client.http.get("/v1/hello"), 401).message
    with come(server, authority.trusting(None)) as nobody:
        assert "no certificate" in refusal_in(nobody.http.get("/v1/hello"), 401).message


@pytest.mark.expects_warnings
def test_a_wrong_authority_and_an_expired_certificate_end_in_the_handshake(
    server: VaultServer, authority: Authority
) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    for issued in (
        trustme.CA().issue_cert("paris"),
        authority.server_ca.issue_cert("paris"),
        authority.client_ca.issue_cert("paris", not_after=past),
    ):
        with (
            come(server, authority.trusting(issued)) as client,
            pytest.raises(httpx.TransportError, match=r"(?i)alert"),
        ):
            client.http.get("/v1/hello")


@pytest.mark.expects_warnings
def test_a_revoked_certificate_ends_at_once_and_a_new_one_goes_on(
    server: VaultServer, authority: Authority
) -> None:
    old, new = authority.client_ca.issue_cert("paris"), authority.client_ca.issue_cert("paris")
    with come(server, authority.trusting(old)) as client:
        assert site_of(client) == "paris"
        server.sites.revoke_certificate("paris", fingerprint(old).upper())
        assert "revoked" in refusal_in(client.http.get("/v1/hello"), 401).message
    with come(server, authority.trusting(new)) as client:
        assert site_of(client) == "paris"
        server.sites.revoke("paris", everything=True)
        assert "does not come" in refusal_in(client.http.get("/v1/hello"), 401).message


@pytest.mark.expects_warnings
def test_tokens_still_do_and_must_agree_with_the_certificate(
    server: VaultServer, authority: Authority
) -> None:
    oslo, hq = server.sites.add("oslo", "site"), server.sites.add("hq", "reader")
    with come(server, authority.trusting(None), oslo) as client:
        assert site_of(client) == "oslo"
    with come(server, authority.trusting(None), hq) as client:
        assert site_of(client) == "hq"
    with come(server, authority.site("paris"), oslo) as client:
        assert "certificate's site" in refusal_in(client.http.get("/v1/hello"), 401).message
    with come(server, authority.site("paris"), oslo[:-1] + "x") as client:
        refusal_in(client.http.get("/v1/hello"), 401)


def _link(url: str, authority: Authority, issued: trustme.LeafCert) -> LinkSettings:
    cert = authority.folder / f"{fingerprint(issued)}.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(cert))
    cert.chmod(0o600)
    return LinkSettings(url=url, ca=str(authority.ca), client_cert=str(cert))


async def _hello(settings: LinkSettings) -> Hello:
    """As the sender asks: over a metered connection."""
    async with Link.open(settings, transport(BucketMeter(), tls_context(settings))) as link:
        return await link.hello()


def test_the_commands_say_who_may_come_and_with_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], authority: Authority
) -> None:
    root = str(VaultRoot.create(tmp_path / "vault").path)
    sites = Sites(VaultRoot.open(Path(root)).sites_dir)
    shown = fingerprint(authority.client_ca.issue_cert("paris"))
    vaults.add(root, "paris", "site", True, True)
    assert '"token": null' in capsys.readouterr().out
    vaults.add(root, "rome", "site", False, False)
    capsys.readouterr()
    with pytest.raises(VaultExists):
        vaults.add(root, "rome", "site", True, False)
    assert sites.get("paris").by_certificate and not sites.get("rome").by_certificate
    vaults.certificate(root, "rome", True, None)
    vaults.certificate(root, "paris", False, ":".join(shown[at : at + 2] for at in range(0, 64, 2)))
    said = capsys.readouterr().out
    assert "rome may come by certificate; 0 revoked" in said
    assert "paris may not come by certificate; 1 revoked" in said
    assert sites.get("paris").revoked == [shown] and sites.get("rome").by_certificate
    with pytest.raises(BadRequest, match="no SHA-256 fingerprint"):
        vaults.certificate(root, "paris", None, "ab:cd")
    with pytest.raises(Refused):
        vaults.certificate(root, "oslo", True, None)


def test_a_key_that_others_can_read_or_that_has_a_password_is_not_used(
    authority: Authority,
) -> None:
    settings = _link("https://localhost", authority, authority.client_ca.issue_cert("paris"))
    tls_context(settings)
    Path(settings.client_cert).chmod(0o640)
    with pytest.raises(BadSettings, match="others can read") as caught:
        tls_context(settings)
    assert "chmod 600" in caught.value.hint
    locked = authority.folder / "locked.pem"
    key = load_pem_private_key(Path(settings.client_cert).read_bytes(), None)
    locked.touch(0o600)
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    settings.client_key = str(locked)
    with pytest.raises(BadSettings, match="can't be used"):
        tls_context(settings)


async def test_a_vault_of_its_own_process_takes_certificates_and_new_ones_on_sighup(
    tmp_path: Path, authority: Authority
) -> None:
    root = VaultRoot.create(tmp_path / "vault")
    Sites(root.sites_dir).add_by_certificate("paris", "site")
    listen = authority.listen()
    command = [
        sys.executable, "-m", "console", "vault", "serve", "--root", str(root.path),
        "--listen", f"{HOST}:0", "--tls-cert", str(listen.tls_cert),
        "--tls-key", str(listen.tls_key), "--client-ca", str(listen.client_ca),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = (await trio.to_thread.run_sync(process.stdout.readline)).split()[-1]
            paris = _link(url, authority, authority.client_ca.issue_cert("paris"))
            rome = _link(url, authority, authority.client_ca.issue_cert("rome"))
            assert (await _hello(paris)).site == "paris"
            with pytest.raises(BadToken):
                await _hello(rome)
            stranger = _link(url, authority, trustme.CA().issue_cert("paris"))
            with pytest.raises(Refused, match="not signed by the vault's client CA"):
                await _hello(stranger)
            past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
            expired = authority.client_ca.issue_cert("paris", not_after=past)
            with pytest.raises(Refused, match="has expired"):
                await _hello(_link(url, authority, expired))
            authority.renew()
            process.send_signal(signal.SIGHUP)
            said = ""
            while "new TLS files" not in said:
                said = await trio.to_thread.run_sync(process.stderr.readline)
                assert said
            assert (await _hello(paris)).site == "paris"
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0
