"""Who may do what at a vault: sites, readers, their tokens and certificates.

Duty: `R/sites/NAME.toml`, making and checking tokens, and which certificates count. Blocking; any
thread. A token is shown once,
when it is made; only its hash is kept, which is enough to check one and useless to make one (the
secret has 256 random bits, so that no slow hash is needed).

A token is `cdpfs_NAME_SECRET`. Two of a name may be valid at once, so that a site can be given a
new one while the old one is still in use.

A certificate of the client CA stands for the site whose name it bears, if that site may come by
certificate at all: a token's site is not taken over by whoever gets a certificate of its name.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import tomli_w
from blake3 import blake3

from replicator.errors import BadRequest, BadToken, Refused, VaultExists
from replicator.vault.root import checked_line
from replicator.vault.tls import Certificate
from replicator.wire import Hex32, LineName
from store import durable
from store.errors import StoreError, UnsupportedFormat

SITES_VERSION: Final = 1
MAX_TOKENS: Final = 2
MAX_TOKEN_CHARS: Final = 256
MAX_REVOKED: Final = 1000
SECRET_BYTES: Final = 32

_TOKEN = re.compile(r"cdpfs_([a-z0-9][a-z0-9-]{0,62})_([A-Za-z0-9_-]{43})")

Kind = Literal["site", "reader"]
"""`site`: writes and reads its own volumes; `reader`: reads all volumes and writes none."""


class Token(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is kept of a token."""

    hash: Hex32
    """blake3 of the secret."""
    created_ns: int


class SiteFile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What `NAME.toml` says. `quota_bytes` may be set by hand."""

    format_version: int = SITES_VERSION
    name: LineName
    kind: Kind
    created_ns: int
    quota_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """What its volumes may take at the vault; 0: as much as there is."""
    tokens: Annotated[list[Token], msgspec.Meta(max_length=MAX_TOKENS)] = []
    by_certificate: bool = False
    """A certificate that bears its name is as good as a token."""
    revoked: Annotated[list[Hex32], msgspec.Meta(max_length=MAX_REVOKED)] = []
    """Fingerprints (SHA-256) of certificates that are good no more."""


class Site(NamedTuple):
    """Who asks."""

    name: str
    kind: Kind
    quota_bytes: int = 0

    @property
    def may_write(self) -> bool:
        """May it have volumes of its own?"""
        return self.kind == "site"

    def may_read(self, owner: str) -> bool:
        """May it see the volumes of the site `owner`?"""
        return self.kind == "reader" or self.name == owner


class Sites:
    """The sites of a vault. Files are read anew when they change. Any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], SiteFile]] = {}

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.toml"))

    def get(self, name: str) -> SiteFile:
        """What is known of a site; Refused when there is none of that name."""
        path = self._path(name)
        try:
            status = path.stat()
        except FileNotFoundError:
            hint = "the files in sites/ of the vault have their names"
            raise Refused(f"no site or reader is called {name}", hint) from None
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        with self._lock:
            known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        found = _read(path)
        with self._lock:
            self._known[name] = stamp, found
        return found

    def check(self, token: str) -> Site:
        """Whose token it is; BadToken."""
        parsed = _TOKEN.fullmatch(token[: MAX_TOKEN_CHARS + 1])
        if parsed is None:
            raise BadToken("the request has no token of a vault")
        try:
            site = self.get(parsed[1])
        except Refused:
            raise BadToken("the token is not valid here") from None
        offered = _hash(parsed[2])
        valid = [hmac.compare_digest(offered, known.hash) for known in site.tokens]
        if not any(valid):
            raise BadToken("the token is not valid here")
        return Site(site.name, site.kind, site.quota_bytes)

    def check_certificate(self, shown: Certificate) -> Site:
        """Whose certificate it is, which the handshake has verified; BadToken."""
        if shown.expired:
            raise BadToken("the certificate has expired")
        if len(shown.names) != 1:
            raise BadToken(f"the certificate has {len(shown.names)} names, and not that of a site")
        try:
            site = self.get(shown.names[0])
        except (Refused, BadRequest):
            raise BadToken("the certificate is not that of a site of this vault") from None
        if not site.by_certificate:
            raise BadToken(
                f"{site.name} does not come by certificate",
                f"allow it at the vault: cdpfs vault certificate {site.name} --allow",
            )
        if shown.fingerprint in site.revoked:
            raise BadToken("the certificate was revoked")
        return Site(site.name, site.kind, site.quota_bytes)

    # --- administration --------------------------------------------------------------------------

    def add(self, name: str, kind: Kind) -> str:
        """A new site or reader; returns its token, which is not kept. VaultExists, BadRequest."""
        self._check_new(name)
        secret, token = _new_token()
        self._write(SiteFile(name=name, kind=kind, created_ns=token.created_ns, tokens=[token]))
        return f"cdpfs_{name}_{secret}"

    def add_by_certificate(self, name: str, kind: Kind) -> None:
        """A new site or reader that has no token. VaultExists, BadRequest."""
        self._check_new(name)
        created_ns = time.time_ns()
        self._write(SiteFile(name=name, kind=kind, created_ns=created_ns, by_certificate=True))

    def allow_certificate(self, name: str, allowed: bool) -> None:
        """Whether a certificate that bears its name is as good as a token."""
        self._write(msgspec.structs.replace(self.get(name), by_certificate=allowed))

    def revoke_certificate(self, name: str, fingerprint: str) -> None:
        """One of its certificates is good no more. BadRequest for what is no fingerprint."""
        site = self.get(name)
        wanted = fingerprint.replace(":", "").lower()
        if re.fullmatch("[0-9a-f]{64}", wanted) is None:
            raise BadRequest(
                f"{fingerprint} is no SHA-256 fingerprint",
                "openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE shows it",
            )
        if len(site.revoked) >= MAX_REVOKED:
            raise BadRequest(
                f"{name} has {MAX_REVOKED} revoked certificates", "begin with a new client CA"
            )
        if wanted not in site.revoked:
            self._write(msgspec.structs.replace(site, revoked=[*site.revoked, wanted]))

    def _check_new(self, name: str) -> None:
        if self._path(name).exists():
            raise VaultExists(
                f"{name} is a site or reader already",
                f"a further token for it: cdpfs vault rotate-site {name}",
            )

    def rotate(self, name: str) -> str:
        """A further token; the one before stays valid, an older one does not."""
        site = self.get(name)
        secret, token = _new_token()
        tokens = [*site.tokens[-(MAX_TOKENS - 1) :], token]
        self._write(msgspec.structs.replace(site, tokens=tokens))
        return f"cdpfs_{name}_{secret}"

    def revoke(self, name: str, everything: bool = False) -> int:
        """Make tokens invalid: all but the newest, or all of them; how many these were.

        With all of them, certificates count no more either.
        """
        site = self.get(name)
        kept = [] if everything else site.tokens[-1:]
        by_certificate = site.by_certificate and not everything
        if (kept, by_certificate) != (site.tokens, site.by_certificate):
            self._write(msgspec.structs.replace(site, tokens=kept, by_certificate=by_certificate))
        return len(site.tokens) - len(kept)

    def _path(self, name: str) -> Path:
        try:
            return self._folder / f"{checked_line(name)}.toml"
        except BadRequest:
            raise BadRequest(
                f"{name!r} can't be a name",
                "choose one of lower-case letters, digits and -, at most 63",
            ) from None

    def _write(self, site: SiteFile) -> None:
        data = tomli_w.dumps(msgspec.to_builtins(site)).encode()
        durable.write_file_atomically(self._path(site.name), data)


def identify(sites: Sites, token: str | None, shown: Certificate | None) -> Site:
    """Who asks, by token, by certificate, or by both, which must agree then. BadToken."""
    by_certificate = sites.check_certificate(shown) if shown is not None else None
    if token is None:
        if by_certificate is None:
            raise BadToken("the request has no token, and its connection no certificate")
        return by_certificate
    by_token = sites.check(token)
    if by_certificate is not None and by_certificate.name != by_token.name:
        raise BadToken("the token is not that of the certificate's site")
    return by_token


def _new_token() -> tuple[str, Token]:
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return secret, Token(hash=_hash(secret), created_ns=time.time_ns())


def _hash(secret: str) -> str:
    return blake3(secret.encode()).hexdigest()


def _read(path: Path) -> SiteFile:
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        version = raw.get("format_version")
        if isinstance(version, int) and version > SITES_VERSION:
            raise UnsupportedFormat(
                f"{path}: format {version} is newer than this cdpfs knows ({SITES_VERSION})"
            )
        site = msgspec.convert(raw, SiteFile)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise StoreError(f"{path}: {error}", "mend the file by hand") from error
    if site.name != path.stem:
        raise StoreError(f"{path} is of a site called {site.name}", "rename the file")
    return site
