"""What `cdpfs doctor` looks at in a volume that is replicated.

Duty: checks of the settings, of the files that they name, and of what the replicator says. It asks
nobody on the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from console.doctor import FAIL, OK, WARN, Finding, key_file_finding
from console.output import duration_text
from console.replicating import LOOPBACK, replication_of
from replicator.errors import BadSettings
from replicator.forking import parting_text, read_parting
from replicator.settings import ReplicaSettings, load_settings, read_token
from store.volume import Store

CLOCK_SLACK_S = 60.0


def replica_findings(store: Store) -> Iterator[Finding]:
    """Checks of one volume's replication; none when it is not replicated."""
    check = "replication"
    try:
        settings = load_settings(store.root)
    except BadSettings as error:
        yield Finding(FAIL, check, str(error), error.hint)
        return
    if settings is None:
        return
    if not settings.enabled:
        yield Finding(OK, check, "switched off")
        return
    yield from _files(settings)
    if settings.seal.key_file:
        yield key_file_finding("sealing key", settings.seal.key_file)
    yield _address(settings.link.url)
    yield from _state(store)
    parted = read_parting(store.root)
    if parted is not None:
        next_step = "see both lines at the vault: cdpfs vault list; docs/replication.md tells why"
        yield Finding(WARN, "history", parting_text(parted), next_step)


def _files(settings: ReplicaSettings) -> Iterator[Finding]:
    """The token and the certificates: there, readable, and private where they must be."""
    from replicator.link import tls_context

    check = "replica files"
    link = settings.link
    try:
        if link.token_file:
            read_token(link.token_file)
        tls_context(link)
    except BadSettings as error:
        yield Finding(FAIL, check, str(error), error.hint)
    else:
        yield Finding(OK, check, "token and certificates can be read")


def _address(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        return Finding(
            WARN,
            "replica address",
            f"{url}: token and content go over the line unencrypted",
            "serve the vault with --tls-cert, and name it with https://",
        )
    return Finding(OK, "replica address", url)


def _state(store: Store) -> Iterator[Finding]:
    check = "replica"
    said = replication_of(store) or {}
    state, error, hint = said.get("state"), said.get("error"), str(said.get("hint") or "")
    lag_s, limit_s = float(said.get("lag_s") or 0), float(said.get("alarm_lag_s") or 0)
    log = f"see {store.log_dir / 'replicator.log'}"
    if state in ("refused", "forked"):
        yield Finding(FAIL, check, f"{state}: {error}", hint or log)
    elif state == "down":
        yield Finding(WARN, check, "nothing replicates it at the moment", log)
    elif limit_s and lag_s > limit_s:
        text = f"{duration_text(lag_s)} behind" + (f": {error}" if error else "")
        yield Finding(WARN, check, text, hint or log)
    else:
        text = f"{state}, {duration_text(lag_s)} behind" + (f": {error}" if error else "")
        yield Finding(OK, check, text)
    ahead_s = said.get("clock_ahead_s")
    if isinstance(ahead_s, int | float) and abs(ahead_s) > CLOCK_SLACK_S:
        where = "ahead" if ahead_s > 0 else "behind"
        yield Finding(
            WARN,
            "vault's clock",
            f"{duration_text(abs(ahead_s))} {where} of this machine's",
            "have both kept by NTP; replication itself does not depend on it",
        )
