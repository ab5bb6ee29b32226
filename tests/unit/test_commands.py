"""Running a user's command: its output, its time, and what becomes of its children."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from console import commands
from console.commands import run_command


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    while runs(pid):
        time.sleep(0.01)


def test_exit_code_and_output_are_told(tmp_path: Path) -> None:
    ended = run_command(
        "pwd; echo $WORD >&2; exit 3",
        environment={"WORD": "hello"},
        directory=str(tmp_path),
        keep_output=True,
    )
    assert (ended.code, ended.ok, ended.timed_out) == (3, False, False)
    assert ended.output == f"{tmp_path}\nhello\n"
    assert run_command("true").ok


def test_a_signal_counts_as_in_a_shell() -> None:
    ended = run_command("kill -KILL $$")
    assert ended.code == 128 + signal.SIGKILL


def test_standard_input_is_empty() -> None:
    assert run_command("cat", keep_output=True).output == ""


def test_only_so_much_output_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_OUTPUT_BYTES", 1000)
    assert len(run_command("yes | head -c 100000", keep_output=True).output) == 1000


def test_over_its_time_it_ends_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ended = run_command(f"sleep 1000 & echo $! $$ > {pids}; wait", timeout_s=2)
    assert ended.timed_out
    assert not ended.ok
    for pid in pids.read_text().split():
        wait_until_gone(int(pid))


def test_children_that_ignore_the_signal_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "GRACE_S", 0.2)
    pids = tmp_path / "pids"
    command = f"trap '' TERM; echo $$ > {pids}; while :; do sleep 1; done"
    assert run_command(command, timeout_s=2).timed_out
    wait_until_gone(int(pids.read_text()))


def test_what_a_command_leaves_running_stays(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert run_command(f"sleep 1000 & echo $! > {pids}", timeout_s=60, keep_output=True).ok
    pid = int(pids.read_text())
    try:
        assert runs(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
