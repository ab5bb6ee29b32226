"""The exceptions of replication.

ReplicationError              `hint` says what to do next
├── LinkDown                  temporary: the vault can't be reached, or the connection broke
│   └── TooSlow               the vault waited for bytes for too long
├── VaultBusy                 temporary: the vault can't take it now (full disk, restart)
│   └── TooManyRequests       the site has as many requests at work as it may
├── Refused                   permanent until a person acts: token, site, volume, protocol
│   ├── BadToken              the vault does not know the token
│   ├── NotHere               there is nothing at the address that was asked for
│   ├── UnknownVolume         the vault has no such volume, or no such line of it
│   └── QuotaUsedUp           the site has used up the space that it may have at the vault
├── BadSettings               `replica.toml`, or a file that it names, is not what it should be
├── Gap                       a shipment starts after what the vault holds: ask for its position
├── Forked                    the vault's history and ours part at some LSN
├── NoVault                   a folder holds no vault
├── VaultExists               a place for a new vault, or a name in it, is taken
├── BadShipment               a shipment is not what its sender made: damaged, cut or hostile
├── Sealed                    the volume is sealed, and this can't be done without its key
├── BadParcel                 a file of shipments is damaged, cut, or none at all
├── PastRefused               what was asked of a vault's volume can't be told; `kind` says why
└── BadRequest                a request that is none, or is over a limit
    └── TooLarge              a body, or what it would become, is over a limit
"""

from __future__ import annotations

from replicator.wire import Position


class ReplicationError(Exception):
    """Something that replication could not do. `hint` says what the person can do next."""

    hint = "see `cdpfs replicate status` and the log in the store's `log` folder"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class LinkDown(ReplicationError):
    """The vault can't be reached at the moment; trying again later can help."""

    hint = "nothing to do if the line comes back; else check the vault's address and its log"


class TooSlow(LinkDown):
    """The vault waited for the bytes of a request for too long."""


class VaultBusy(ReplicationError):
    """The vault answers, but can't take anything now; trying again later can help."""

    hint = "see to the vault: its disk may be full"


class TooManyRequests(VaultBusy):
    """The site has as many requests at work as it may."""

    hint = "another cdpfs may use the same token; see the vault's log"


class Refused(ReplicationError):
    """The vault refuses until a person changes something."""

    hint = "check the token and the vault's address: cdpfs replicate start"


class BadSettings(ReplicationError):
    """What was set up can't be used: permanent until a person changes it."""

    hint = "see the command's --help, or replica.toml in the store"


class Gap(ReplicationError):
    """A shipment that starts after what the vault holds."""

    hint = "nothing to do: the sender asks for the vault's position and goes on from there"
    position: Position | None = None
    """What the vault holds, where that is known."""


class Forked(ReplicationError):
    """The vault holds another history than this volume from some LSN on."""

    hint = "both histories are kept; see `cdpfs vault list` at the vault"
    position: Position | None = None
    """What the vault holds, where that is known."""


class BadToken(Refused):
    """The vault does not know the token: it is none, or was revoked."""

    hint = "ask for a new token: cdpfs vault rotate-site NAME, at the vault"


class NotHere(Refused):
    """There is nothing at the address that was asked for."""

    hint = "check the address of the vault, and that both ends have the same version of cdpfs"


class UnknownVolume(Refused):
    """The vault has no such volume, or no such line of it."""

    hint = "see `cdpfs vault list` at the vault"


class QuotaUsedUp(Refused):
    """The site has used up the space that it may have at the vault."""

    hint = "raise or remove `quota_bytes` in the site's file at the vault"


class NoVault(ReplicationError):
    """A folder holds no vault."""

    hint = "make one: cdpfs vault init --root R"


class VaultExists(ReplicationError):
    """A place for a new vault, or a name in it, is taken."""

    hint = "choose another place or name"


class BadShipment(ReplicationError):
    """The bytes of a shipment are not what its sender made."""

    hint = "the sender tries again; if it happens often, the line or a disk damages data"


class Sealed(ReplicationError):
    """The volume is sealed: the vault can't read it, and this needs its content."""

    hint = (
        "do it where the key is: cdpfs replicate recover, or mirror (to read and restore), "
        "with --key-file F"
    )


class BadParcel(ReplicationError):
    """A file of shipments is not what `cdpfs replicate export` made."""

    hint = "copy it again, or make it again: cdpfs replicate export"


class BadRequest(ReplicationError):
    """A request that makes no sense or exceeds a limit."""

    hint = "use a cdpfs of the same version at both ends"


class TooLarge(BadRequest):
    """A body, or what it would become, is over a limit."""


class PastRefused(ReplicationError):
    """A vault answers what the past itself would: no such path, a moment to come, not yet copied.

    `kind` is the name of that error's class in `timetravel.errors` or `store.errors`.
    """

    hint = "ask for another moment or path"

    def __init__(self, message: str, hint: str | None = None, kind: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
