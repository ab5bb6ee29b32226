"""TLS at the vault: its certificate, and who the certificate of a client says that it is.

Duty: the server's context, which takes up new files without a restart, and `certificate`, the one
that the current connection showed. TLS 1.2 at least, 1.3 as a rule; no renegotiation and no session
tickets, so that every connection shows its certificate and is judged by the files as they are.

A client need not show a certificate (a token will do as well), but one that is shown has to be
signed by the client CA, be within its time and be meant for clients: else the handshake fails, and
the log says why. Blocking reads of small files when a connection begins; any thread.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from replicator.errors import BadSettings

log = logging.getLogger(__name__)

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all good."""


class Certificate(NamedTuple):
    """What a client's certificate says. The handshake has proved that it is the client's."""

    names: tuple[str, ...]
    """DNS names of the subject's alternatives if there are any, else its common name."""
    fingerprint: str
    """SHA-256 of the DER form, as 64 hexadecimal digits."""
    ends_ns: int

    @property
    def expired(self) -> bool:
        """It was valid at the handshake; a connection may outlive it."""
        return time.time_ns() > self.ends_ns


certificate: ContextVar[Certificate | None] = ContextVar("certificate", default=None)
"""Of the connection that the current task serves: set by the handshake, which runs in the
connection's first task, and inherited by all that it starts. None when none was shown."""


alert: ContextVar[bytes] = ContextVar("alert", default=b"")
"""What TLS has to say to a client whose handshake failed, as `certificate` is set. trio drops it
with the connection; whoever accepted that sends it, so that the client learns why."""


class TlsFiles(NamedTuple):
    """Names of PEM files. Without `client_ca` no client is asked for a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ServerContext(ssl.SSLContext):
    """A context that reads its files anew when they change. A server's alone.

    Files that can't be read leave the ones before in use, and are reported in the log; those of
    the beginning raise BadSettings.
    """

    _files: TlsFiles
    _lock: threading.Lock
    _stamp: tuple[object, ...]
    _inner: ssl.SSLContext

    def __new__(cls, files: TlsFiles) -> ServerContext:
        """Everything is left to the context within."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._files = files
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._inner = _load(files)
        return self

    def __init__(self, files: TlsFiles) -> None:
        """See `__new__`."""

    def reload(self) -> bool:
        """Take up the files if they changed; was there anything to take up?"""
        stamp = _stamp(self._files)
        with self._lock:
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            try:
                self._inner = _load(self._files)
            except BadSettings as error:
                log.error("the TLS files before stay in use: %s; %s", error, error.hint)
                return False
        log.info("took up new TLS files")
        return True

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **options: Any
    ) -> ssl.SSLObject:
        """See ssl.SSLContext; trio makes every connection with it."""
        self.reload()
        connection = self._inner.wrap_bio(incoming, outgoing, *arguments, **options)
        assert isinstance(connection, _Connection)
        connection.outgoing = outgoing
        return connection


class _Connection(ssl.SSLObject):
    """One connection; notes the client's certificate when the handshake is over."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                log.warning("a client's certificate is refused: %s", error.verify_message)
            alert.set(self.outgoing.read())
            raise
        shown = self.getpeercert(binary_form=True)
        certificate.set(read_certificate(shown) if shown else None)


def read_certificate(der: bytes) -> Certificate:
    """What a certificate says. ValueError when it is none."""
    found = x509.load_der_x509_certificate(der)
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    if not names:
        common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = tuple(str(attribute.value) for attribute in common)
    ends_ns = int(found.not_valid_after_utc.timestamp()) * 10**9
    return Certificate(names, hashlib.sha256(der).hexdigest(), ends_ns)


def _stamp(files: TlsFiles) -> tuple[object, ...]:
    """Tells whether a file was changed or exchanged."""
    found = []
    for path in files:
        try:
            status = path.stat() if path is not None else None
        except OSError:
            status = None
        found.append(status and (status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = _Connection
    name = files.certificate
    try:
        # Without a password there would be a prompt on the terminal, and no vault.
        context.load_cert_chain(files.certificate, files.key, password="")
        if files.client_ca is not None:
            name = files.client_ca
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise BadSettings(
            f"the TLS files can't be used ({name}): {error}",
            "PEM files: --tls-cert with the chain, --tls-key without a password, --client-ca",
        ) from error
    return context
