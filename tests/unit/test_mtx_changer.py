"""What a changer program may say and do, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tape.changer import Element
from tape.errors import ChangerJam
from tape.mtx_changer import MOST_BYTES, MtxChanger, parse_listall

LISTALL = """\
D:0:F:3:A00003L8
D:1:E
S:1:F:A00001L8
S:2:F:
S:3:E
I:4:F:what is this
I:5:E
"""


def program(tmp_path: Path, text: str) -> str:
    """A changer program."""
    path = tmp_path / "changer"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_every_kind_of_place_is_understood() -> None:
    drives, slots, doors = parse_listall(LISTALL)
    assert drives == (Element(0, True, "A00003L8", 3), Element(1, False))
    assert slots == (Element(1, True, "A00001L8"), Element(2, True), Element(3, False))
    assert doors == (Element(4, True, ""), Element(5, False))


@pytest.mark.parametrize(
    "text",
    [
        "S:2:E",
        "S:1:E\nS:1:E",
        "S:1:E\nI:3:E",
        "D:1:E",
        "X:1:E",
        "S:1:F",
        "S:one:E",
        "S:-1:E",
        "S:999999:E",
        "mtx: cannot open SCSI device",
    ],
)
def test_what_makes_no_sense_is_not_believed(text: str) -> None:
    with pytest.raises(ChangerJam, match="listall"):
        parse_listall(text)


def test_what_a_program_says_when_it_fails_is_told(tmp_path: Path) -> None:
    changer = MtxChanger(program(tmp_path, "echo the arm is stuck >&2; exit 3"), "/dev/sg0", [])
    with pytest.raises(ChangerJam, match=r"arm is stuck \(exit 3\)"):
        changer.inventory()


def test_a_program_that_is_not_there_is_a_jam(tmp_path: Path) -> None:
    with pytest.raises(ChangerJam, match="No such file"):
        MtxChanger(str(tmp_path / "none"), "/dev/sg0", []).inventory()


def test_a_program_that_does_not_stop_talking_is_stopped(tmp_path: Path) -> None:
    changer = MtxChanger(program(tmp_path, "exec yes S:1:E"), "/dev/sg0", [])
    with pytest.raises(ChangerJam, match="stop talking"):
        changer.inventory()
    assert MOST_BYTES < 10 << 20


INTERRUPTED = """
state=$(dirname "$0")/state
case $2 in
    listall) cat "$state" ;;
    *) [ "$AFTER" = none ] || printf '%s\\n' $AFTER > "$state"; exit 1 ;;
esac
"""


@pytest.mark.parametrize("after", ["none", "D:0:F:1:B1 S:1:E", "D:0:F:1:B2 S:1:E", "D:0:E S:1:E"])
def test_a_robot_that_was_interrupted_is_asked_what_it_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    (tmp_path / "state").write_text("D:0:E\nS:1:F:B1\n")
    monkeypatch.setenv("AFTER", after)
    changer = MtxChanger(program(tmp_path, INTERRUPTED), "/dev/sg0", ["/dev/nst0"])
    if "B1" in after:
        changer.load(1, 0)
    else:
        with pytest.raises(ChangerJam, match="exit 1"):
            changer.load(1, 0)


def test_a_robot_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    text = '[ $2 = listall ] || exec sleep 1000; printf "D:0:E\\nS:1:F:B1\\n"'
    changer = MtxChanger(program(tmp_path, text), "/dev/sg0", ["/dev/nst0"], move_s=0.2)
    with pytest.raises(ChangerJam, match="not done after"):
        changer.load(1, 0)


def test_the_words_are_those_of_the_contract(tmp_path: Path) -> None:
    said = tmp_path / "said"
    text = f'echo "$@" >> {said}; [ $2 != listall ] || printf "D:0:E\\nS:1:F:B1\\nS:2:E\\n"'
    changer = MtxChanger(program(tmp_path, text), "/dev/sg0", ["/dev/nst0"])
    changer.load(1, 0)
    changer.transfer(1, 2)
    changer.inventory(rescan=True)
    words = [line for line in said.read_text().splitlines() if "listall" not in line]
    assert words == [
        "/dev/sg0 load 1 /dev/nst0 0",
        "/dev/sg0 transfer 1 2 0",
        "/dev/sg0 inventory 0 /dev/nst0 0",
    ]
