"""The limit on a real (virtual) line: what the interface counts, against what was allowed.

A bare upload goes through the metered transport to a server that knows nothing of cdpfs. The line
is shaped by tbf; figures are bits per second with every header, over windows of 10 s.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.network.line import Counter, Line, lines_of

WINDOW_S = 10.0
TOO_MUCH, ENOUGH = 1.05, 0.9
CHANGE_S = 2.0

KBIT, MBIT = 1_000, 1_000_000
LINES = [
    # rate of the line, limit
    pytest.param(56 * KBIT, 40 * KBIT, id="40k-of-56k"),
    pytest.param(1 * MBIT, 600 * KBIT, id="600k-of-1M"),
    pytest.param(100 * MBIT, 60 * MBIT, id="60M-of-100M"),
]
MORE_LINES = [
    pytest.param(56 * KBIT, 56 * KBIT, id="56k-of-56k"),
    pytest.param(56 * KBIT, 9_600, id="9600-of-56k"),
    pytest.param(1 * MBIT, 1 * MBIT, id="1M-of-1M"),
    pytest.param(1 * MBIT, 56 * KBIT, id="56k-of-1M"),
    pytest.param(100 * MBIT, 95 * MBIT, id="95M-of-100M"),
    pytest.param(100 * MBIT, 56 * KBIT, id="56k-of-100M"),
    pytest.param(100 * MBIT, 10 * MBIT, id="10M-of-100M"),
]


class Upload:
    """An endless upload at a limit."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdout is not None
        assert json.loads(lines_of(process.stdout)) == {"started": True}

    def set_rate(self, rate_bps: float) -> float:
        """Another limit; returns the time from which on it holds (monotonic)."""
        return self._tell(f"rate {rate_bps}")

    def _tell(self, command: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        assert "sent" in json.loads(lines_of(self._process.stdout))
        return time.monotonic()

    def end(self) -> None:
        """Stop; it must not have ended by itself."""
        self._tell("end")
        self._process.wait()


@contextmanager
def sink_on(line: Line, folder: Path, tls: bool, ip6: bool) -> Iterator[tuple[str, str]]:
    """A server at the vault's end: its URL, and the file with its authority ("" for http)."""
    address = line.vault.ip6 if ip6 else line.vault.ip
    words = [address, "0"]
    ca_file = ""
    if tls:
        authority = trustme.CA()
        certificate = authority.issue_cert(address)
        chain, key, ca = folder / "chain.pem", folder / "key.pem", folder / "ca.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(ca)
        words += [str(chain), str(key)]
        ca_file = str(ca)
    with line.vault.python("tests.network.sink", *words, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            host = f"[{address}]" if ip6 else address
            url = f"{'https' if tls else 'http'}://{host}:{lines_of(server.stdout)}"
            yield url, ca_file
        finally:
            server.kill()


@contextmanager
def uploading(
    line: Line, folder: Path, rate_bps: float, tls: bool = True, ip6: bool = False
) -> Iterator[Upload]:
    with (
        sink_on(line, folder, tls, ip6) as (url, ca),
        line.site.python(
            *("tests.network.uploader", url, ca, str(rate_bps)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        try:
            yield Upload(process)
        finally:
            process.kill()


def check(counter: Counter, limit_bps: float, start_s: float, stop_s: float) -> None:
    most, used = counter.most(WINDOW_S, start_s, stop_s), counter.rate(start_s, stop_s)
    print(
        f"limit {limit_bps:.0f}: fullest window {most / limit_bps:.3f}, used {used / limit_bps:.3f}"
    )
    assert most <= TOO_MUCH * limit_bps
    assert used >= ENOUGH * limit_bps


def hold_the_limit(
    folder: Path, line_bps: int, limit_bps: int, length_s: float, **how: bool
) -> None:
    with (
        Line(line_bps) as line,
        Counter(line.site) as counter,
        uploading(line, folder, limit_bps, **how) as upload,
    ):
        begun_s = time.monotonic()
        time.sleep(length_s)
        stop_s = time.monotonic()
        upload.end()
    # The handshake waits for the other end's answers, which is no work that could be done.
    check(counter, limit_bps, begun_s + 1.0, stop_s)
    assert counter.most(WINDOW_S) <= TOO_MUCH * limit_bps


@pytest.mark.parametrize(("line_bps", "limit_bps"), LINES)
def test_an_upload_holds_its_limit_and_uses_it(
    tmp_path: Path, line_bps: int, limit_bps: int
) -> None:
    hold_the_limit(tmp_path, line_bps, limit_bps, 14.0)


@pytest.mark.nightly
@pytest.mark.parametrize("how", [{"tls": True}, {"tls": False}, {"ip6": True}], ids=str)
@pytest.mark.parametrize(("line_bps", "limit_bps"), LINES + MORE_LINES)
def test_an_upload_holds_its_limit_for_a_long_time(
    tmp_path: Path, line_bps: int, limit_bps: int, how: dict[str, bool]
) -> None:
    hold_the_limit(tmp_path, line_bps, limit_bps, 90.0, **how)


def test_another_limit_a_pause_and_going_on_take_effect_within_two_seconds(tmp_path: Path) -> None:
    with (
        Line(1 * MBIT) as line,
        Counter(line.site) as counter,
        uploading(line, tmp_path, float("inf")) as upload,
    ):
        time.sleep(3.0)
        changes = []
        for rate_bps in (200 * KBIT, 0, 600 * KBIT, 56 * KBIT):
            at_s = upload.set_rate(rate_bps)
            time.sleep(CHANGE_S + 5.0)
            changes.append((rate_bps, at_s + CHANGE_S, time.monotonic()))
        upload.end()
    for rate_bps, start_s, stop_s in changes:
        rate = counter.rate(start_s, stop_s)
        print(f"changed to {rate_bps}: {rate:.0f}")
        # Keepalive and acknowledgements are all that a pause lets through.
        assert rate <= TOO_MUCH * rate_bps + 500
        assert rate >= ENOUGH * rate_bps


def test_after_the_line_was_cut_the_limit_still_holds(tmp_path: Path) -> None:
    limit_bps = 200 * KBIT
    with (
        Line(1 * MBIT) as line,
        Counter(line.site) as counter,
        uploading(line, tmp_path, limit_bps) as upload,
    ):
        time.sleep(4.0)
        line.cut()
        time.sleep(4.0)
        line.mend()
        time.sleep(14.0)
        upload.end()
    assert counter.most(WINDOW_S) <= TOO_MUCH * limit_bps
