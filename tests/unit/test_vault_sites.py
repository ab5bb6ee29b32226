"""Who comes in at a vault: tokens that are shown once, and files that hold only their hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import BadRequest, BadToken, Refused, VaultExists
from replicator.vault.sites import Site, Sites
from store.errors import StoreError, UnsupportedFormat


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def test_a_token_says_whose_it_is(sites: Sites) -> None:
    site, reader = sites.add("branch-1", "site"), sites.add("hq", "reader")
    assert sites.check(site) == Site("branch-1", "site")
    assert sites.check(reader) == Site("hq", "reader")
    assert sites.names() == ["branch-1", "hq"]
    assert site.startswith("cdpfs_branch-1_")
    assert len(site) == len("cdpfs_branch-1_") + 43


def test_only_a_hash_is_kept_for_the_owner_alone(sites: Sites, tmp_path: Path) -> None:
    token = sites.add("branch", "site")
    path = tmp_path / "branch.toml"
    assert token.rsplit("_", 1)[-1] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_rights_of_sites_and_readers(sites: Sites) -> None:
    site, reader = sites.check(sites.add("a", "site")), sites.check(sites.add("hq", "reader"))
    assert site.may_write
    assert site.may_read("a")
    assert not site.may_read("b")
    assert not reader.may_write
    assert reader.may_read("a")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token.replace("branch", "other"),
        lambda token: token.replace("cdpfs", "CDPFS"),
        lambda token: token + "\n",
        lambda token: token.replace("branch", "../branch"),
        lambda token: "",
        lambda token: "cdpfs__" + "A" * 43,
        lambda token: "cdpfs_nobody_" + "A" * 43,
        lambda token: token * 100,
    ],
)
def test_anything_else_is_no_token(sites: Sites, spoil: object) -> None:
    token = sites.add("branch", "site")
    sites.add("other", "site")
    with pytest.raises(BadToken) as error:
        sites.check(spoil(token))  # type: ignore[operator]
    assert token.rsplit("_", 1)[-1][:20] not in str(error.value)


def test_two_tokens_are_valid_while_a_site_changes_over(sites: Sites) -> None:
    first = sites.add("branch", "site")
    second = sites.rotate("branch")
    assert sites.check(first) == sites.check(second)
    third = sites.rotate("branch")
    with pytest.raises(BadToken):
        sites.check(first)
    assert sites.check(second) == sites.check(third)
    assert sites.revoke("branch") == 1
    with pytest.raises(BadToken):
        sites.check(second)
    assert sites.check(third).name == "branch"
    assert sites.revoke("branch") == 0


def test_a_site_without_tokens_stays_out_until_it_gets_one(sites: Sites) -> None:
    token = sites.add("branch", "site")
    assert sites.revoke("branch", everything=True) == 1
    with pytest.raises(BadToken):
        sites.check(token)
    assert sites.check(sites.rotate("branch")).name == "branch"


def test_changes_by_another_process_count_at_once(sites: Sites, tmp_path: Path) -> None:
    token = sites.add("branch", "site")
    assert sites.check(token).quota_bytes == 0
    path = tmp_path / "branch.toml"
    path.write_text(path.read_text().replace("quota_bytes = 0", "quota_bytes = 1000"))
    assert sites.check(token).quota_bytes == 1000
    Sites(tmp_path).revoke("branch", everything=True)
    with pytest.raises(BadToken):
        sites.check(token)


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a_b", "-a", "a" * 64, "a\n"])
def test_impossible_names_are_refused(sites: Sites, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        sites.add(name, "site")
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_taken_once(sites: Sites) -> None:
    sites.add("branch", "site")
    with pytest.raises(VaultExists, match="already"):
        sites.add("branch", "reader")
    with pytest.raises(Refused, match="no site or reader"):
        sites.rotate("other")


def test_files_that_can_not_be_used_are_named(sites: Sites, tmp_path: Path) -> None:
    token = sites.add("branch", "site")
    path = tmp_path / "branch.toml"
    good = path.read_text()
    path.write_text(good.replace("format_version = 1", "format_version = 2"))
    with pytest.raises(UnsupportedFormat):
        sites.check(token)
    path.write_text("name = 1")
    with pytest.raises(StoreError, match="branch"):
        sites.check(token)
    (tmp_path / "other.toml").write_text(good)
    with pytest.raises(StoreError, match="called branch"):
        sites.get("other")
