"""The numbers and laws of the house style, held by a machine.

import-linter checks the layers as well; what it can't express is here: names by pattern, modules
that do not exist yet, the standard library's os, and what a pure module reaches indirectly.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100

# Lowest first. A package imports itself and the packages of lower rank; equal ranks are siblings.
LAYERS = {"store": 0, "timetravel": 1, "fsd": 2, "replicator": 2, "tape": 2, "console": 3}

# Drawers that collect what has no home.
BANNED_NAMES = {"common", "utils", "util", "helpers", "helper", "misc"}

# A module of one of these names is pure, in whichever package below console it stands.
PURE_NAMES = {
    "alarms",
    "barriers",
    "batch",
    "bookkeeping",
    "bucket",
    "calendar",
    "catalogue",
    "catalogue_state",
    "choice",
    "columns",
    "cycles",
    "delta",
    "effort",
    "extents",
    "fold",
    "format",
    "key_backup",
    "keys",
    "layout",
    "moment",
    "ops",
    "packed",
    "pieces",
    "plan",
    "reach",
    "retention",
    "sealing",
    "shipment",
    "shopping",
    "sketch",
    "stocktaking",
    "streams",
    "week",
    "wire",
}
# The I/O libraries, os, and the standard library's other doors to it.
IMPURE = {
    "asyncio",
    "fcntl",
    "httpx",
    "lmdb",
    "mmap",
    "os",
    "pathlib",
    "posix",
    "pyfuse3",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "trio",
}

# Which modules (dotted names) may import a library that is kept behind one door.
DOORS = {
    "lmdb": re.compile(r"store\.index(_\w+)?"),
    "pyfuse3": re.compile(r"fsd(\..*)?"),
    "httpx": re.compile(r"(replicator|console)(\..*)?"),
}

# The one module for what makes store files durable or takes them away, and the calls in question.
# Other packages may rename and remove in the backing tree, but they do not sync by themselves.
DURABLE = "store.durable"
SYNC_CALLS = {"os.fsync", "os.fdatasync"}
STORE_CALLS = SYNC_CALLS | {
    "os.ftruncate",
    "os.link",
    "os.pwrite",
    "os.pwritev",
    "os.remove",
    "os.rename",
    "os.replace",
    "os.rmdir",
    "os.truncate",
    "os.unlink",
    "shutil.rmtree",
}
PATH_CALLS = {"rename", "rmdir", "unlink"}

# Directories of one developer's machine. Written so that this line does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(wor[k]/|tm[p]/v(?![\w-]))")


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root, its text and its syntax tree."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text, self.path)

    @property
    def module(self) -> str:
        """The dotted name; a package's __init__ has the package's own name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str | None:
        """The layer that the file belongs to; None for tests and scripts."""
        top = self.path.split("/")[0]
        return top if top in LAYERS and "/" in self.path else None


@cache
def _parse(text: str, path: str) -> ast.Module:
    return ast.parse(text, path)


@cache
def tracked_files() -> tuple[str, ...]:
    """The project's files: what git tracks, and what it would track (not ignored)."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted(set(listing.stdout.decode().split("\0")) - {""})
    return tuple(name for name in names if (ROOT / name).is_file())


@cache
def python_sources() -> tuple[Source, ...]:
    names = [name for name in tracked_files() if name.endswith(".py")]
    return tuple(Source(name, (ROOT / name).read_text()) for name in names)


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in the file.

    `from a.b import c` yields a.b.c, since c may be a module; callers compare by prefix.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{source.path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


# --- the rules: each takes a source and yields "path:line: what is wrong" -------------------------


def long_module(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{source.path}:{lines}: {lines} lines in one module, at most {MAX_MODULE_LINES}"


def long_function(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield (
                    f"{source.path}:{node.lineno}: {node.name} has {lines} lines, "
                    f"at most {MAX_FUNCTION_LINES}"
                )


def banned_name(source: Source) -> Iterator[str]:
    for part in source.module.split("."):
        if part in BANNED_NAMES:
            yield f"{source.path}:1: no module is named {part}; put things beside their caller"


def missing_docstring(source: Source) -> Iterator[str]:
    if not source.text.strip() and source.package is None:
        return  # an empty __init__.py among the tests
    if ast.get_docstring(source.tree) is None:
        yield f"{source.path}:1: the module has no docstring"
    if source.package is not None:
        yield from _undocumented(source, source.tree.body, "")


def _undocumented(source: Source, body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or _documented_elsewhere(node):
            continue
        name = prefix + node.name
        if ast.get_docstring(node) is None:
            yield f"{source.path}:{node.lineno}: {name} is public and has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(source, node.body, f"{name}.")


def _documented_elsewhere(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """An overload, a property's setter or an override is described by its other half."""
    names = {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in node.decorator_list}
    return bool(names & {"overload", "setter", "deleter", "override"})


def layer_breach(source: Source) -> Iterator[str]:
    if source.package is None:
        return
    rank = LAYERS[source.package]
    for line, name in imports(source):
        top = name.split(".")[0]
        if top in LAYERS and top != source.package and LAYERS[top] >= rank:
            yield f"{source.path}:{line}: {source.package} may not import {top}"
        elif top in {"tests", "scripts"}:
            yield f"{source.path}:{line}: a package may not import {top}"


def wrong_door(source: Source) -> Iterator[str]:
    if source.package is None:
        return
    for line, name in imports(source):
        door = DOORS.get(name.split(".")[0])
        if door is not None and not door.fullmatch(source.module):
            yield f"{source.path}:{line}: {name} is only for {door.pattern}"


def undurable(source: Source) -> Iterator[str]:
    """Calls that belong in store/durable.py, where a fault disk can stand in."""
    if source.package is None or source.module == DURABLE:
        return
    forbidden = STORE_CALLS if source.package == "store" else SYNC_CALLS
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        if f"{owner}.{name}" in forbidden or (
            source.package == "store" and name in PATH_CALLS and owner not in {"durable", "os"}
        ):
            yield f"{source.path}:{node.lineno}: {owner}.{name} is only for {DURABLE}"


def is_pure(source: Source) -> bool:
    return (
        source.package not in {None, "console"} and source.module.rsplit(".", 1)[-1] in PURE_NAMES
    )


def impurity(source: Source, project: dict[str, Source]) -> Iterator[str]:
    """What a pure module imports that it must not, itself or through the project's modules."""
    if not is_pure(source):
        return
    pending = [(source, source.module)]
    seen = {source.module}
    while pending:
        current, chain = pending.pop()
        for line, name in imports(current):
            if name.split(".")[0] in IMPURE:
                yield f"{current.path}:{line}: {name} reaches a pure module: {chain} -> {name}"
            target = project.get(name) or project.get(name.rpartition(".")[0])
            if target is not None and target.module not in seen:
                seen.add(target.module)
                pending.append((target, f"{chain} -> {target.module}"))


def wide_line(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, at most {MAX_COLUMNS}"


def machine_path(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if match := MACHINE_PATH.search(line):
            yield f"{path}:{number}: a path of one machine: {match.group()}"


SOURCE_RULES: list[Callable[[Source], Iterator[str]]] = [
    long_module,
    long_function,
    banned_name,
    missing_docstring,
    layer_breach,
    wrong_door,
    undurable,
]


# --- the tree keeps them ----------------------------------------------------------------------


def fail_if_any(findings: list[str]) -> None:
    if findings:
        pytest.fail("\n" + "\n".join(findings), pytrace=False)


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_python_sources_keep_the_rule(rule: Callable[[Source], Iterator[str]]) -> None:
    fail_if_any([finding for source in python_sources() for finding in rule(source)])


def test_pure_modules_reach_no_io() -> None:
    project = {source.module: source for source in python_sources() if source.package}
    fail_if_any([found for source in project.values() for found in impurity(source, project)])


def test_code_fits_in_100_columns() -> None:
    names = [n for n in tracked_files() if n.endswith(".py") or n.startswith(("scripts/", ".ci/"))]
    fail_if_any([f for n in names for f in wide_line(n, (ROOT / n).read_text(errors="replace"))])


def test_no_file_names_a_directory_of_one_machine() -> None:
    texts = ((name, (ROOT / name).read_bytes()) for name in tracked_files())
    fail_if_any(
        [
            finding
            for name, data in texts
            if b"\0" not in data
            for finding in machine_path(name, data.decode(errors="replace"))
        ]
    )


def test_every_package_is_known_to_the_build_and_to_the_linter() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    present = {package for package in LAYERS if (ROOT / package / "__init__.py").is_file()}
    built = {name.split(".")[0] for name in config["setuptools"]["packages"]["find"]["include"]}
    assert built == present, "tool.setuptools.packages.find in pyproject.toml"
    assert set(config["importlinter"]["root_packages"]) == present, "tool.importlinter"


def test_every_top_level_package_has_a_layer() -> None:
    found = {name.split("/")[0] for name in tracked_files() if name.count("/") == 1}
    packages = {name for name in found if (ROOT / name / "__init__.py").is_file()} - {"tests"}
    assert packages <= set(LAYERS), "a new package needs its rank in LAYERS"


# --- and the rules would notice ------------------------------------------------------------------

DOC = '"""Duty."""\n'
LONG_FUNCTION = DOC + "def _f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES


@pytest.mark.parametrize(
    ("rule", "path", "text", "line"),
    [
        (long_module, "store/a.py", DOC * (MAX_MODULE_LINES + 1), MAX_MODULE_LINES + 1),
        (long_function, "store/a.py", LONG_FUNCTION, 2),
        (banned_name, "fsd/utils.py", DOC, 1),
        (banned_name, "fsd/misc/__init__.py", DOC, 1),
        (missing_docstring, "fsd/a.py", "x = 1\n", 1),
        (missing_docstring, "tests/unit/a.py", "x = 1\n", 1),
        (missing_docstring, "fsd/a.py", DOC + "async def f(): ...\n", 2),
        (missing_docstring, "fsd/a.py", DOC + "class A:\n  'x'\n  def f(self): ...\n", 4),
        (layer_breach, "store/a.py", DOC + "from timetravel import view\n", 2),
        (layer_breach, "fsd/a.py", DOC + "def _f():\n  import tape.layout\n", 3),
        (layer_breach, "fsd/a.py", DOC + "from console.cli import main\n", 2),
        (wrong_door, "store/segment.py", DOC + "import lmdb\n", 2),
        (wrong_door, "store/indexer.py", DOC + "from lmdb import Environment\n", 2),
        (wrong_door, "console/a.py", DOC + "import pyfuse3\n", 2),
        (wrong_door, "fsd/a.py", DOC + "import httpx\n", 2),
        (undurable, "store/a.py", DOC + "os.ftruncate(1, 2)\n", 2),
        (undurable, "store/a.py", DOC + "Path('x').unlink()\n", 2),
        (undurable, "fsd/a.py", DOC + "os.fsync(1)\n", 2),
    ],
)
def test_rule_notices_a_breach(
    rule: Callable[[Source], Iterator[str]], path: str, text: str, line: int
) -> None:
    (finding,) = rule(Source(path, text))
    assert finding.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (missing_docstring, "fsd/a.py", DOC + "def _f(): ...\nclass _A:\n  def f(self): ...\n"),
        (layer_breach, "fsd/a.py", DOC + "from store.ops import Write\nimport fsd.b\n"),
        (wrong_door, "store/index.py", DOC + "import lmdb\n"),
        (wrong_door, "store/index_names.py", DOC + "import lmdb\n"),
        (wrong_door, "fsd/operations.py", DOC + "import pyfuse3\n"),
        (undurable, "store/durable.py", DOC + "os.fsync(1)\n"),
        (undurable, "store/a.py", DOC + "durable.unlink(path)\n"),
        (undurable, "fsd/a.py", DOC + "os.unlink('of the backing tree')\n"),
    ],
)
def test_rule_lets_good_code_pass(
    rule: Callable[[Source], Iterator[str]], path: str, text: str
) -> None:
    assert list(rule(Source(path, text))) == []


def test_impurity_is_noticed_through_another_module() -> None:
    pure = Source("store/format.py", DOC + "from store import durable\nimport zstandard\n")
    edge = Source("store/durable.py", DOC + "import os.path\n")
    project = {source.module: source for source in (pure, edge)}
    (finding,) = impurity(pure, project)
    assert finding.startswith("store/durable.py:2: os.path ")
    assert finding.endswith("store.format -> store.durable -> os.path")


def test_machine_paths_are_noticed_and_others_are_not() -> None:
    bad = "cd /wor" + "k/main\n" + "PATH=/tm" + "p/v/bin\n"
    good = "cp backing/work/x /tmp/vault\n"
    assert [found.split(":")[1] for found in machine_path("a", bad + good)] == ["1", "2"]
