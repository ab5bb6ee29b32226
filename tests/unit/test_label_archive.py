"""File 0 of a cartridge: for people and for the library, whatever is there."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tape.errors import BadArchive, BadCartridge, NewerCartridge, NoLabel
from tape.label_archive import read_label, write_label_archive
from tape.layout import MIN_BLOCK_BYTES, Label
from tests.unit.archives import LABEL, blocks_of


def written(label: Label = LABEL) -> bytes:
    out = io.BytesIO()
    write_label_archive(label, out)
    return out.getvalue()


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, 1536, 64 << 10, 1 << 20])
def test_a_label_comes_back(block_bytes: int) -> None:
    label = msgspec.structs.replace(LABEL, block_bytes=block_bytes)
    data = written(label)
    assert len(data) % block_bytes == 0
    assert read_label(blocks_of(data, block_bytes)) == label


def test_tar_shows_the_readme(tmp_path: Path) -> None:
    (tmp_path / "file-0").write_bytes(written())
    done = subprocess.run(
        ["tar", "-xOf", tmp_path / "file-0", "README"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "A00012L8" in done.stdout and "tar -b 128 --numeric-owner" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_blank_foreign_newer_and_damaged_are_told_apart() -> None:
    with pytest.raises(NoLabel) as caught:
        read_label([])
    assert caught.value.blank
    foreign = io.BytesIO()
    with tarfile.open(fileobj=foreign, mode="w") as file:
        file.addfile(tarfile.TarInfo("README"))
    for data in (foreign.getvalue(), bytes(4096), b"\xff" * 4096):
        with pytest.raises(NoLabel) as caught:
            read_label([data])
        assert not caught.value.blank
    with pytest.raises(NewerCartridge, match="version 7"):
        read_label([written().replace(b'"format_version": 1', b'"format_version": 7')])
    with pytest.raises(BadArchive):
        read_label([written().replace(b'"pool": "onsite"', b'"pool": "ON/ITE"')])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=40))
def test_damage_ends_in_an_error_of_ours_or_changes_nothing(at: int, junk: bytes) -> None:
    data = bytearray(written())
    data[at : at + len(junk)] = junk
    try:
        read_label([bytes(data)])
    except BadCartridge:
        return


@given(st.binary(max_size=3000))
def test_bytes_of_any_kind_are_no_label(data: bytes) -> None:
    with pytest.raises(BadCartridge):
        read_label([data])
