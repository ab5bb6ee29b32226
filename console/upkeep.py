"""`cdpfs verify` and `cdpfs reindex`: progress while they read, and what they found.

Duty: presentation and exit codes; the reading is `store/verify.py`'s and `store/reindex.py`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from console.exit_codes import ExitCode
from console.output import bytes_progress, note, path_text, print_json, say, size_text
from console.volumes import volume_of

MAX_SHOWN_FINDINGS = 50


def verify(path: str, store_root: str | None, as_json: bool) -> ExitCode:
    """Check a whole store; DAMAGE when anything is not as it was written."""
    from store.verify import verify as check

    store = volume_of(path, store_root)
    with _progress("verifying") as progress:
        report = check(store, progress)
    if as_json:
        print_json({"sound": report.sound, **dataclasses.asdict(report)})
        return ExitCode.OK if report.sound else ExitCode.DAMAGE
    say(
        f"read  {report.segments} segments, {report.batches} batches, {report.ops} ops with "
        f"{size_text(report.payload_bytes)}; {report.intake_ops} ops wait in the intake log"
    )
    if report.sound:
        say("sound  every checksum, the chain of batches, and the index agree")
        return ExitCode.OK
    for finding in report.findings[:MAX_SHOWN_FINDINGS]:
        note(f"cdpfs: {path_text(str(finding))}")
    if len(report.findings) > MAX_SHOWN_FINDINGS:
        note(f"cdpfs: and {len(report.findings) - MAX_SHOWN_FINDINGS} more (see --json)")
    for hint in dict.fromkeys(finding.hint for finding in report.findings):
        note(f"  next: {hint}")
    return ExitCode.DAMAGE


def reindex(path: str, store_root: str | None, as_json: bool) -> None:
    """Rebuild a store's index from its segments."""
    from store.reindex import reindex as rebuild

    store = volume_of(path, store_root)
    with _progress("reindexing") as progress:
        report = rebuild(store, progress)
    if as_json:
        print_json(report._asdict())
        return
    say(f"rebuilt  the index from {report.batches} batches, up to LSN {report.last_lsn}")
    if report.torn_bytes:
        say(
            f"  {size_text(report.torn_bytes)} of an unfinished batch at the end did not count: "
            "the intake log holds these ops, the next mount indexes them"
        )


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as the callback that these jobs take."""
    with bytes_progress() as bar:
        task = bar.add_task(title, total=None)

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield advance
