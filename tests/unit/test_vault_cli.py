"""`cdpfs vault …` as a person, or a script, uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from replicator.vault.root import VaultRoot
from store.segment import list_segments
from store.volume import Store
from tests.unit.shipping import BRANCH, make_history, make_vault, same_history, shipments
from tests.unit.vault_server import SiteClient

SOURCE = Path(__file__).resolve().parents[2]


def cdpfs(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "console", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@contextmanager
def serving(root: Path, *options: str) -> Iterator[str]:
    """The URL of a vault that a process of its own serves."""
    command = [sys.executable, "-P", "-m", "console", "vault", "serve", "--root", str(root)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--insecure-http", *options],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate()
        assert process.returncode == 0, log
        assert "Traceback" not in log


def test_from_nothing_to_a_replica(tmp_path: Path) -> None:
    source, root = make_history(tmp_path / "site", rounds=3), tmp_path / "vault"
    cdpfs("vault", "init", "--root", root)
    token = cdpfs("vault", "add-site", "branch", "--root", root).stdout.strip()
    with serving(root) as url, SiteClient(url, token) as site:
        site.describe(source.config.uuid, BRANCH)
        for data in shipments(source, 2):
            assert site.ship(source.config.uuid, data).status_code == 200
        (row,) = json.loads(cdpfs("vault", "list", "--root", root, "--json").stdout)["volumes"]
        position = site.position(source.config.uuid)
        assert (row["next_lsn"], row["visible_lsn"]) == (position.next_lsn, position.visible_lsn)
        assert (row["site"], row["name"], row["health"]) == ("branch", "branch", "ok")
        assert row["silent_s"] >= 0
    assert "branch" in cdpfs("vault", "list", "--root", root).stdout
    cdpfs("vault", "verify", "--root", root)
    same_history(source, VaultRoot.open(root).store(source.config.uuid))


def test_metrics_are_told_on_a_loopback_address_without_a_token(tmp_path: Path) -> None:
    cdpfs("vault", "init", "--root", tmp_path / "vault")
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with serving(tmp_path / "vault", "--metrics", f"127.0.0.1:{port}"):
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert answer.status_code == 200
        assert "cdpfs_vault_requests" in answer.text
        assert httpx.get(f"http://127.0.0.1:{port}/v1/hello", trust_env=False).status_code == 404
    done = cdpfs(
        "vault", "serve", "--root", tmp_path / "vault", "--listen", ":0", "--insecure-http",
        "--metrics", "0.0.0.0:9", code=2,
    )  # fmt: skip
    assert "loopback" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--tls-cert"),
        (["--tls-cert", "x"], "both files"),
        (["--tls-cert", "x", "--tls-key", "y"], "TLS files"),
        (["--tls-cert", "x", "--tls-key", "y", "--insecure-http"], "exclude"),
    ],
)
def test_a_vault_is_not_served_in_clear_by_accident(
    tmp_path: Path, options: list[str], said: str
) -> None:
    cdpfs("vault", "init", "--root", tmp_path / "vault")
    done = cdpfs(
        "vault", "serve", "--root", tmp_path / "vault", "--listen", "127.0.0.1:0", *options, code=2
    )
    assert said in done.stderr
    assert "next:" in done.stderr


def test_one_process_serves_a_vault(tmp_path: Path) -> None:
    cdpfs("vault", "init", "--root", tmp_path / "vault")
    with serving(tmp_path / "vault"):
        done = cdpfs(
            "vault", "serve", "--root", tmp_path / "vault", "--listen", "127.0.0.1:0",
            "--insecure-http", code=5,
        )  # fmt: skip
        assert "one process at a time" in done.stderr


def test_tokens_come_and_go_while_the_vault_is_served(tmp_path: Path) -> None:
    root = tmp_path / "vault"
    cdpfs("vault", "init", "--root", root)
    with serving(root) as url:
        said = cdpfs("vault", "add-site", "branch", "--root", root, "--json").stdout
        first = json.loads(said)["token"]
        second = cdpfs("vault", "rotate-site", "branch", "--root", root).stdout.strip()

        def statuses() -> list[int]:
            found = []
            for token in (first, second):
                with SiteClient(url, token) as site:
                    found.append(site.http.get("/v1/hello").status_code)
            return found

        assert statuses() == [200, 200]
        cdpfs("vault", "revoke", "branch", "--root", root)
        assert statuses() == [401, 200]
        cdpfs("vault", "revoke", "branch", "--root", root, "--all")
        assert statuses() == [401, 401]


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    source = make_history(tmp_path / "site", rounds=2)
    _, replica = make_vault(tmp_path, source)
    _ingest_all(source, replica)
    path = list_segments(replica)[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = cdpfs("vault", "verify", "--root", tmp_path / "vault", "branch", code=3)
    assert path.name in done.stdout
    cdpfs("vault", "verify", "--root", tmp_path / "vault", "other", code=4)


def _ingest_all(source: Store, replica: Store) -> None:
    from replicator.vault.ingest import LineWriter

    writer = LineWriter.open(replica)
    for data in shipments(source, 2):
        writer.take(data)
    writer.close()


def test_wrong_places_are_told_apart(tmp_path: Path) -> None:
    cdpfs("vault", "list", "--root", tmp_path / "none", code=4)
    cdpfs("vault", "init", "--root", tmp_path / "vault")
    cdpfs("vault", "init", "--root", tmp_path / "vault", code=5)
    cdpfs("vault", "add-site", "No_Name", "--root", tmp_path / "vault", code=2)
    cdpfs("vault", "add-site", "branch", "--root", tmp_path / "vault")
    cdpfs("vault", "add-site", "branch", "--root", tmp_path / "vault", code=5)
