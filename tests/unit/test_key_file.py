"""Key files and their backups: what was written is read, anything else is refused by name."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import BadKeyFile
from store.key_backup import read_backup, write_backup
from store.key_file import (
    create_key_file,
    import_backup,
    read_backup_file,
    read_key_file,
    rotate_key_file,
    write_backup_file,
)
from store.keys import KeyRing, SealingKey

secrets = st.binary(min_size=32, max_size=32)
keys = st.builds(SealingKey, secrets, st.integers(0, 2**63 - 1))
rings = st.builds(KeyRing, secrets, st.lists(keys, min_size=1, max_size=5).map(tuple))


def test_a_key_file_is_for_its_owner_alone_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    ring = create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == ring
    assert create_key_file(tmp_path / "other.key") != ring


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    before = create_key_file(path)
    with pytest.raises(BadKeyFile, match="is there already"):
        create_key_file(path)
    write_backup_file(create_key_file(tmp_path / "other.key"), "x", tmp_path / "backup")
    with pytest.raises(BadKeyFile, match="is there already"):
        import_backup(read_backup_file(tmp_path / "backup"), path)
    assert read_key_file(path) == before


def test_rotation_keeps_the_old_keys_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    before = create_key_file(path)
    after = rotate_key_file(path)
    assert read_key_file(path) == after and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert after.keys[:-1] == before.keys and after.newest not in before.keys
    assert after.holds(before) and not before.holds(after)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "seal.key"
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(BadKeyFile, match="open to other users") as caught:
        read_key_file(path)
    assert "chmod 600" in caught.value.hint and "rotate" in caught.value.hint


def test_what_is_no_key_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    create_key_file(path)
    whole = path.read_text()
    secret = whole.split('chain = "')[1][:44]
    changed = ("A" if secret[3] != "A" else "B") + secret[4:]
    for text in (
        "",
        "[[[",
        whole.replace(secret, secret[:-8]),
        whole.replace("secret", "sekret"),
        whole.replace('id = "', 'id = "0'),
        whole.replace("format_version = 1", "format_version = 2"),
        whole.replace("created_ns", 'surplus = "x"\ncreated_ns'),
    ):
        path.write_text(text)
        with pytest.raises(BadKeyFile) as caught:
            read_key_file(path)
        assert secret[:20] not in str(caught.value) and changed not in str(caught.value)
    with pytest.raises(BadKeyFile, match="can't be read"):
        read_key_file(tmp_path / "missing")


def test_a_changed_secret_in_a_key_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    create_key_file(path)
    whole = path.read_text()
    secret = whole.split('secret = "')[1][:44]
    other = ("B" if secret[0] == "A" else "A") + secret[1:]
    path.write_text(whole.replace(secret, other))
    with pytest.raises(BadKeyFile, match="not what its id says"):
        read_key_file(path)


@given(rings, st.text(max_size=40))
def test_a_backup_gives_back_the_ring(ring: KeyRing, label: str) -> None:
    assert read_backup(write_backup(ring, label)) == ring


@given(rings)
def test_a_backup_may_be_typed_in_as_people_do(ring: KeyRing) -> None:
    lines = [line for line in write_backup(ring, "x").splitlines() if not line.startswith("#")]
    typed = "\n\n".join(line.lower().replace("0", "o").replace("1", "l") for line in lines if line)
    numbered = [
        f"{number}. {' '.join(line.split()[1:])}"
        for number, line in enumerate((line for line in typed.splitlines() if line), 1)
    ]
    assert read_backup("\n".join(numbered)) == ring


@given(rings, st.data())
def test_a_mistyped_letter_is_told_with_its_line(ring: KeyRing, data: st.DataObject) -> None:
    lines = [row for row in write_backup(ring, "x").splitlines() if row and row[0] != "#"]
    number = data.draw(st.integers(0, len(lines) - 1))
    places = [at for at, letter in enumerate(lines[number]) if letter != " " and at > 3]
    at = data.draw(st.sampled_from(places))
    other = data.draw(st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ!U"))
    if other == lines[number][at]:
        return
    lines[number] = lines[number][:at] + other + lines[number][at + 1 :]
    with pytest.raises(BadKeyFile):
        # What a last letter says beyond whole bytes does not count.
        if read_backup("\n".join(lines)) == ring:
            raise BadKeyFile("the same after all")


@given(rings, st.data())
def test_lines_left_out_or_exchanged_are_noticed(ring: KeyRing, data: st.DataObject) -> None:
    lines = [row for row in write_backup(ring, "x").splitlines() if row and row[0] != "#"]
    out = data.draw(st.integers(0, len(lines) - 1))
    with pytest.raises(BadKeyFile):
        read_backup("\n".join(lines[:out] + lines[out + 1 :]))
    one, other = sorted(data.draw(st.tuples(*[st.integers(0, len(lines) - 1)] * 2)))
    if one != other:
        lines[one], lines[other] = lines[other], lines[one]
        with pytest.raises(BadKeyFile, match=f"line {one + 1}"):
            read_backup("\n".join(lines))


@given(st.text(max_size=300))
def test_noise_is_no_backup(text: str) -> None:
    with pytest.raises(BadKeyFile):
        read_backup(text)


def test_a_backup_file_makes_a_key_file_elsewhere(tmp_path: Path) -> None:
    ring = create_key_file(tmp_path / "seal.key")
    write_backup_file(ring, "/srv/files", tmp_path / "backup")
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    text = read_backup_file(tmp_path / "backup")
    assert read_backup(text) == ring
    assert import_backup(text, tmp_path / "again.key") == ring
    assert read_key_file(tmp_path / "again.key") == ring
