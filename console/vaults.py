"""What `cdpfs vault …` does: making a vault, its sites, serving it, looking at it. Blocking."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from console.exit_codes import ExitCode
from console.output import (
    bytes_progress,
    duration_text,
    path_text,
    print_json,
    say,
    size_text,
    table,
    time_json,
)
from replicator.errors import UnknownVolume
from replicator.vault import sealed_files
from replicator.vault.root import VaultRoot
from replicator.vault.sites import Sites
from replicator.vault.survey import LineState, Survey
from replicator.wire import Origin
from store.errors import DamagedError
from store.verify import verify as verify_store
from store.volume import Store

if TYPE_CHECKING:
    from replicator.vault.serve import Listen

OK = "ok"


def init(root: str) -> None:
    """Make a vault."""
    made = VaultRoot.create(Path(root))
    say(f"{path_text(str(made.path))} is a vault now")
    say(f"  next: cdpfs vault add-site NAME --root {path_text(root)}")


def add(
    root: str, name: str, kind: Literal["site", "reader"], by_certificate: bool, as_json: bool
) -> None:
    """A new site or reader, and its token unless it comes by certificate."""
    if by_certificate:
        Sites(VaultRoot.open(Path(root)).sites_dir).add_by_certificate(name, kind)
        if as_json:
            print_json({"name": name, "token": None})
        else:
            say(f"{name} comes by a certificate of the client CA that bears this one name")
        return
    _show_token(name, Sites(VaultRoot.open(Path(root)).sites_dir).add(name, kind), as_json)


def rotate(root: str, name: str, as_json: bool) -> None:
    """A further token."""
    _show_token(name, Sites(VaultRoot.open(Path(root)).sites_dir).rotate(name), as_json)


def _show_token(name: str, token: str, as_json: bool) -> None:
    """The token alone goes to stdout, so that it can go straight to a file."""
    if as_json:
        print_json({"name": name, "token": token})
        return
    say(token)
    print("this token is not shown again: keep it in a file of mode 0600", file=sys.stderr)


def revoke(root: str, name: str, everything: bool) -> None:
    """Make tokens invalid."""
    count = Sites(VaultRoot.open(Path(root)).sites_dir).revoke(name, everything)
    if not count and not everything:
        say(f"{name} has no older token; --all revokes its newest one")
    else:
        say(f"{count} token{'' if count == 1 else 's'} of {name} revoked")


def certificate(root: str, name: str, allow: bool | None, revoked: str | None) -> None:
    """Say whether a site may come by certificate, or which ones count no more."""
    sites = Sites(VaultRoot.open(Path(root)).sites_dir)
    if revoked is not None:
        sites.revoke_certificate(name, revoked)
        say(f"the certificate {revoked} of {name} counts no more")
    if allow is not None:
        sites.allow_certificate(name, allow)
    site = sites.get(name)
    may = "may" if site.by_certificate else "may not"
    say(f"{name} {may} come by certificate; {len(site.revoked)} revoked")


def serve(root: str, listen: Listen) -> None:
    """Serve until a signal."""
    from replicator.vault.serve import run
    from store.indexer import keep_memory

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s vault[%(process)d] %(levelname)s: %(message)s"
    )
    keep_memory()
    run(VaultRoot.open(Path(root)), listen, _say_address)


def _say_address(url: str) -> None:
    print(f"listening on {url}", flush=True)


# --- looking -----------------------------------------------------------------------------------


def show(root: str, as_json: bool) -> int:
    """List the volumes. Exit code DAMAGE if one can't be read."""
    vault = VaultRoot.open(Path(root))
    rows = [row for uuid in vault.volumes() for row in volume_rows(vault, uuid)]
    if as_json:
        print_json({"vault": vault.id, "sites": Sites(vault.sites_dir).names(), "volumes": rows})
    elif not rows:
        say("no volume is kept here yet")
        say(f"  next: cdpfs vault add-site NAME --root {path_text(root)}")
    else:
        _print_rows(rows)
    return ExitCode.DAMAGE if any(row["health"] != OK for row in rows) else ExitCode.OK


def volume_rows(vault: VaultRoot, uuid: str) -> list[dict[str, Any]]:
    """What `vault list --json` says of a volume: an entry for each of its lines."""
    survey, volume = Survey(vault), vault.volume(uuid)
    return [_row(survey.line(volume, line)) for line in vault.lines(uuid)]


def _row(state: LineState) -> dict[str, Any]:
    volume, known = state.volume, state.volume.description
    return {
        "volume": volume.uuid,
        "name": known.name,
        "site": volume.site,
        "directory": known.directory,
        "line": state.line,
        "sealed": known.sealed,
        "next_lsn": state.next_lsn or None,
        "visible_lsn": state.visible_lsn if state.next_lsn else None,
        "last_op": time_json(state.last_op_ns) if state.last_op_ns else None,
        "silent_s": state.silent_s,
        "bytes": state.stored_bytes if state.next_lsn else None,
        "parted": _parted(state.origin),
        "health": f"can't be read: {state.trouble}" if state.trouble else OK,
        "hint": state.hint,
    }


def _parted(origin: Origin | None) -> dict[str, Any] | None:
    """Where a line parts from which; None for a first line."""
    if origin is None:
        return None
    return {
        "from": origin.parent,
        "lsn": origin.lsn,
        "time": time_json(origin.time_ns) if origin.time_ns else None,
        "made": time_json(origin.made_ns),
    }


def _print_rows(rows: list[dict[str, Any]]) -> None:
    columns = ("NAME", "SITE", "LINE", "NEXT LSN", "VISIBLE", "SILENT", "SIZE", "HEALTH", "VOLUME")
    cells = [
        (
            path_text(row["name"]) + (" (sealed)" if row["sealed"] else ""),
            row["site"],
            row["line"],
            str(row["next_lsn"] or "-"),
            str(row["visible_lsn"] or "-"),
            duration_text(row["silent_s"]) if row["silent_s"] is not None else "-",
            size_text(row["bytes"]) if row["bytes"] is not None else "-",
            row["health"],
            row["volume"],
        )
        for row in rows
    ]
    table(columns, cells, right=(3, 4, 5, 6))
    for row in rows:
        if row["parted"]:
            say(f"{row['line']}: {_parting_text(row['parted'])}")
    for row in rows:
        if row["hint"]:
            print(f"  next: {row['hint']}", file=sys.stderr)


def _parting_text(parted: dict[str, Any]) -> str:
    when = f" ({parted['time']})" if parted["time"] else ""
    return (
        f"history parted from {parted['from']} after LSN {parted['lsn']}{when}: two machines have "
        f"written under this volume's name; this line was made {parted['made']}"
    )


# --- checking ------------------------------------------------------------------------------------


def verify(root: str, volume: str | None, as_json: bool) -> int:
    """Check every digest of a volume, or of all."""
    vault = VaultRoot.open(Path(root))
    found = [find_volume(vault, volume)] if volume else vault.volumes()
    reports = [
        {"volume": uuid, "line": line, **_verify_line(vault, uuid, line)}
        for uuid in found
        for line in vault.lines(uuid)
    ]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            state = "sound" if not report["findings"] else f"{len(report['findings'])} findings"
            say(f"{report['volume']} {report['line']}: {report['ops']} ops, {state}")
            for finding in report["findings"]:
                say(f"  {finding['what']}")
                say(f"    next: {finding['hint']}")
    return ExitCode.DAMAGE if any(report["findings"] for report in reports) else ExitCode.OK


def find_volume(vault: VaultRoot, word: str) -> str:
    """The UUID of the volume that is meant, by UUID or by a name that one volume has."""
    uuids = vault.volumes()
    if word in uuids:
        return word
    named = [uuid for uuid in uuids if vault.volume(uuid).description.name == word]
    if len(named) == 1:
        return named[0]
    if named:
        raise UnknownVolume(f"{len(named)} volumes are called {word}", "name it by its UUID")
    raise UnknownVolume(f"the vault has no volume {word}")


def _verify_line(vault: VaultRoot, uuid: str, line: str) -> dict[str, Any]:
    store = vault.store(uuid, line)
    if vault.volume(uuid).description.sealed:
        return _verify_sealed(store)
    with bytes_progress() as bar:
        task = bar.add_task(f"{uuid} {line}", total=None)

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        report = verify_store(store, advance)
    findings = [{"what": str(finding), "hint": finding.hint} for finding in report.findings]
    return {"ops": report.ops, "batches": report.batches, "findings": findings}


def _verify_sealed(store: Store) -> dict[str, Any]:
    """All that can be told without the key."""
    ops = shipments = 0
    findings = []
    try:
        for entry in sealed_files.verify_sealed(store):
            shipments += 1
            ops = entry.header.last_lsn
    except DamagedError as error:
        hint = "copy the file back from a backup of the vault; the site may still hold its content"
        findings.append({"what": str(error), "hint": hint})
    return {"ops": ops, "batches": shipments, "findings": findings}
