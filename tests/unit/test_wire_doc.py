"""docs/wire.md says what the code does."""

from __future__ import annotations

import pytest

from replicator.format_doc import PAGE, SECTIONS, main, render


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == render()
    assert main(["--check"]) == 0


def test_every_field_is_on_the_page() -> None:
    page = render()
    for _, _, tables in SECTIONS:
        for table in tables:
            assert f"({table.size_bytes} bytes)" in page
            assert all(f"`{field.name}`" in page for field in table.fields)


def test_a_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nonsense"]) == 2
    assert "usage" in capsys.readouterr().err
