"""Real C projects, fetched from PyPI as source, built and tested inside the mount.

The sources stay in a cache folder; a run that can't reach PyPI for the first time fails and says
so. Compilers write many small files, read them back through mmap, and rename what they made.
"""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.mount.arena import Arena, Pause, open_arena
from tests.mount.peers import cache_folder, environment, fetched, run

SIMPLEJSON = (
    "simplejson-3.20.2.tar.gz",
    "5fe7a6ce14d1c300d80d08695b7f7e633de6cd72c80644021874d985b3393649",
)
ZSTANDARD = (
    "zstandard-0.23.0.tar.gz",
    "b2d8c62d08e7255f68f7a740bae85b3c9b8e5466baa9cbf7f57f1cde0ac6bc09",
)
BUILD_TOOLS = ("setuptools==75.8.0", "wheel==0.45.1")


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An empty pair of places."""
    with open_arena() as made:
        yield made


def _build_tools() -> Path:
    """A folder with the build back end, so that nothing is fetched while building."""
    folder = cache_folder() / "-".join(BUILD_TOOLS).replace("==", "-")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        fetched("install", "--target", str(partial), *BUILD_TOOLS)
        partial.rename(folder)
    return folder


def _source(name: str, digest: str) -> Path:
    """A source archive from PyPI, by its exact content."""
    path = cache_folder() / name
    if not path.exists():
        project, _, version = name.removesuffix(".tar.gz").rpartition("-")
        os.environ["PYTHONPATH"] = str(_build_tools())
        try:
            options = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation")
            fetched("download", *options, "-d", str(path.parent), f"{project}=={version}")
        finally:
            del os.environ["PYTHONPATH"]
    found = sha256(path.read_bytes()).hexdigest()
    assert found == digest, f"{path} is not what it was: remove it to fetch it again"
    return path


def _building(place: Path) -> dict[str, str]:
    """Environment of a build whose outcome depends neither on the place nor on the time."""
    return environment(
        PYTHONPATH=str(_build_tools()),
        PYTHONDONTWRITEBYTECODE="1",
        SOURCE_DATE_EPOCH="1700000000",
        CFLAGS=f"-O0 -g0 -ffile-prefix-map={place}=.",
        TMPDIR=str(place),
    )


def _unpack(archive: Path, place: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


def test_a_c_extension_is_built_and_passes_its_own_tests(arena: Arena) -> None:
    archive = _source(*SIMPLEJSON)

    def work(place: Path, pause: Pause) -> None:
        project = _unpack(archive, place)
        how: dict[str, Any] = {"cwd": project, "env": _building(place)}
        pause()
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", **how)
        made = list((project / "simplejson").glob("_speedups*.so"))
        assert len(made) == 1, "the extension was not built"
        pause()
        tests = ("-W", "ignore", "-m", "unittest", "-q", "simplejson.tests.all_tests_suite")
        run(sys.executable, *tests, **how)
        run(sys.executable, "setup.py", "-q", "clean", "--all", **how)

    arena.compare(work)


@pytest.mark.nightly
def test_a_large_c_library_is_built_installed_and_used(arena: Arena) -> None:
    archive = _source(*ZSTANDARD)

    def work(place: Path, pause: Pause) -> str:
        project = _unpack(archive, place)
        how: dict[str, Any] = {"cwd": project, "env": _building(place)}
        target = place / "installed"
        pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
        pause()
        options = ("--no-deps", "--no-build-isolation", "--no-index")
        run(*pip, "wheel", *options, "-w", place / "wheels", project, **how)
        pause()
        wheels = (place / "wheels").iterdir()
        run(*pip, "install", *options, "--no-compile", "--target", target, *wheels, **how)
        script = (
            "import zstandard as z; d = bytes(range(256)) * 999; "
            "print(z.decompress(z.compress(d)) == d)"
        )
        using = environment(PYTHONPATH=str(target), PYTHONDONTWRITEBYTECODE="1")
        return run(sys.executable, "-c", script, cwd=place, env=using)

    names = (b"direct_url.json", b"RECORD")  # these hold the place's path
    result = arena.compare(work, varies=lambda path: path.endswith(names))
    assert result == "True\n"
