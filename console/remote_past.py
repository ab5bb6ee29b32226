"""A volume's past at a vault, as commands read it: `console.past.Past` over a line.

Duty: which vault, which volume, which path; moments resolved by the vault; views of it. Moments are
read here, in the time zone of whoever asks, and sent with their offset. One thread.
"""

from __future__ import annotations

import os
import re
import time
from types import TracebackType
from typing import Any, Self

from console.errors import WrongUse
from console.output import note
from console.vault_options import VaultSource
from console.volumes import relative_path
from replicator.errors import UnknownVolume
from replicator.reading_wire import (
    ChangeMessage,
    CompanionMessage,
    DeletedMessage,
    Failure,
    PointMessage,
    PointRow,
    VersionMessage,
    VolumeMessage,
    encode_name,
)
from replicator.reading_words import companion_of, point_of
from replicator.remote import Line, RemoteVault
from replicator.remote_view import NotTold, RemoteView
from replicator.settings import LinkSettings
from replicator.wire import MAIN_LINE
from store.types import Lsn
from timetravel.companions import Companion
from timetravel.moment import AtTime, parse_moment
from timetravel.report import caution_about, point_sentence
from timetravel.resolve import ResolvedPoint

_BITS = 8
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMG]?)")
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


class RemotePast:
    """The history of the volume at a vault that `source` names. A context manager."""

    def __init__(self, path: str, source: VaultSource, limit_s: float | None = None) -> None:
        self.now_ns = time.time_ns()
        self._limit_s = limit_s
        self.vault = RemoteVault(_settings(source), _rate_bytes_s(source.limit_rate))
        try:
            self.volume = _chosen(self.vault.volumes(), source.volume)
            self.line = Line(self.volume.uuid, source.line or MAIN_LINE)
            self.path = relative_path(path, os.fsencode(self.volume.directory))
        except BaseException:
            self.vault.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.vault.close()

    def point_for_path(self, moment: str, exact: bool = False) -> ResolvedPoint:
        """The point that a moment means for the path; what was chosen in reading it is noted."""
        text = moment
        if exact and not text.lower().rstrip().endswith("!exact"):
            text += "!exact"
        asked = parse_moment(text, now_ns=self.now_ns, zone=None)
        is_now = isinstance(asked, AtTime) and asked.time_ns == self.now_ns
        sent = "@now" + ("!exact" if asked.exact else "") if is_now else asked.display()
        params: dict[str, Any] = {"moment": sent, "path": encode_name(self.path)}
        if self._limit_s is not None:
            params["limit_s"] = self._limit_s
        found = self._message("resolve", PointMessage, params)
        point = point_of(found)
        for said in filter(None, (asked.note, point.note)):
            note(f"cdpfs: {moment}: {said}")
        return point

    def newest(self) -> ResolvedPoint:
        """The newest barrier that the vault shows."""
        return point_of(self._message("resolve", PointMessage, {"moment": "@now"}))

    def say_point(self, moment: str, point: ResolvedPoint) -> None:
        """Tell on stderr what a moment came to, and a caution if something is half done there."""
        note(f"cdpfs: {moment} is {point_sentence(point)}")
        caution = caution_about(point)
        if caution:
            note(f"cdpfs: {caution}")

    def view(self, point: ResolvedPoint) -> RemoteView:
        """The volume as of `point`."""
        return RemoteView(self.vault, self.line, point.lsn, point.time_ns)

    def companions(self, view: RemoteView) -> list[Companion]:
        """The files that belong to the path."""
        params = {"lsn": view.lsn, "path": encode_name(self.path)}
        found = self._message("companions", list[CompanionMessage], params)
        return [companion_of(message) for message in found]

    def versions(self, first: Lsn | None, last: Lsn | None) -> list[VersionMessage]:
        """The versions of the path."""
        return self._rows("history", VersionMessage, since=first, until=last)

    def points(self, first: Lsn | None, last: Lsn | None, grade: str | None) -> list[PointRow]:
        """The recovery points of the path."""
        return self._rows("points", PointRow, since=first, until=last, grade=grade)

    def changes(self, first: Lsn, last: Lsn) -> list[ChangeMessage]:
        """What changed below the path."""
        return self._rows("diff", ChangeMessage, from_lsn=first, to_lsn=last)

    def deletions(self, name: str | None, first: Lsn | None) -> list[DeletedMessage]:
        """What was deleted below the path."""
        return self._rows("deleted", DeletedMessage, name=name, since=first)

    def _rows(self, what: str, kind: Any, **params: Any) -> list[Any]:
        known = {name: value for name, value in params.items() if value is not None}
        asked = {"line": self.line.line, "path": encode_name(self.path), **known}
        rows = []
        for row in self.vault.lines(self.line.url(what), asked, kind):
            if isinstance(row, Failure):
                raise NotTold(row.message, row.hint or None)
            rows.append(row)
        return rows

    def _message(self, what: str, kind: Any, params: dict[str, Any]) -> Any:
        return self.vault.message(self.line.url(what), {"line": self.line.line, **params}, kind)


def _settings(source: VaultSource) -> LinkSettings:
    if source.url is None:
        hint = "name it: --from URL (of diff: --vault URL), or --root R"
        raise WrongUse("--volume and its like need a vault", hint)

    def absolute(path: str | None) -> str:
        return os.path.abspath(path) if path else ""

    return LinkSettings(
        url=source.url,
        token_file=absolute(source.token_file),
        ca=absolute(source.ca),
        client_cert=absolute(source.client_cert),
        client_key=absolute(source.client_key),
    )


def _rate_bytes_s(text: str | None) -> float:
    """From bits per second, as `cdpfs throttle` has them."""
    if text is None:
        return 0.0
    found = _RATE.fullmatch(text)
    if found is None or not float(found[1]):
        raise WrongUse(f"{text!r} is no rate", "bits per second, such as 56k or 2.5M")
    return float(found[1]) * _FACTORS[found[2]] / _BITS


def _chosen(volumes: list[VolumeMessage], wanted: str | None) -> VolumeMessage:
    """The volume that is meant; the only one if none is named. UnknownVolume."""
    found = [v for v in volumes if wanted is None or wanted in (v.uuid, v.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{volume.name} ({volume.uuid})" for volume in found or volumes)
    if found:
        what = f"{wanted} is the name of several volumes" if wanted else "there are several volumes"
    else:
        what = f"the vault has no volume {wanted}" if wanted else "there is no volume to be read"
    raise UnknownVolume(what, f"name one: --volume V; there are: {names or 'none'}")
