"""Programs whose transaction is a file or a name: sed, vim, git, a maildir, an append-only log."""

from __future__ import annotations

import mailbox
import os
import random
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mount.peers import environment, find_program
from tests.transactions.program import Broken, Counts, Program, Transact

LINES = 300
"""Of the edited file: more than one page, so that a half-written one shows."""


def _run(*argv: str | Path, cwd: Path | str = "/") -> str:
    done = subprocess.run(
        [find_program(str(argv[0])), *map(str, argv[1:])],
        cwd=cwd,
        env=environment(**_GIT_AUTHOR),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Broken(f"{argv[0]}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


_GIT_AUTHOR = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_NOSYSTEM": "1",
}


class Editor(Program):
    """A file of which every line names the version; an editor changes all of them."""

    strict_files = ("text",)

    def __init__(self, editor: str) -> None:
        self.name = editor
        self._editor = editor

    def prepare(self, place: Path) -> None:
        (place / "text").write_text("".join(f"line {i} version 0\n" for i in range(LINES)))

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        def do(number: int) -> None:
            change = f"s/version [0-9]*/version {number}/"
            if self._editor == "sed":
                _run("sed", "-i", change, place / "text")
            else:
                _run(
                    "vim", "-u", "NONE", "-N", "-es", "-c", f"%{change}", "-c", "wq", place / "text"
                )

        yield do

    def check(self, copy: Path) -> Counts:
        # The file that vim set aside is what a person takes when the new one is not whole.
        texts = [p for p in (copy / "text", copy / "text~") if p.exists()]
        problem = "there is no file"
        for text in texts:
            try:
                return _version(text)
            except Broken as error:
                problem = str(error)
        raise Broken(problem)

    def check_strict(self, copy: Path) -> Counts:
        return _version(copy / "text")


def _version(text: Path) -> Counts:
    if not text.exists():
        raise Broken("there is no file")
    content = text.read_text(errors="replace")
    number = content.split("\n", 1)[0].rpartition(" ")[2]
    if content != "".join(f"line {i} version {number}\n" for i in range(LINES)):
        raise Broken(f"half a version: {len(content)} bytes")
    return (int(number),)


class Git(Program):
    """A repository of several files; each commit changes some of them."""

    name = "git"
    strict_files = ()

    def prepare(self, place: Path) -> None:
        _run("git", "init", "-q", "-b", "main", place)
        (place / "src").mkdir()
        _write_tree(place, 0)
        _run("git", "add", "-A", cwd=place)
        _run("git", "commit", "-q", "-m", "0", cwd=place)

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        def do(number: int) -> None:
            _write_tree(place, number)
            _run("git", "add", "-A", cwd=place)
            _run("git", "commit", "-q", "-m", str(number), cwd=place)

        yield do

    def check(self, copy: Path) -> Counts:
        _git(copy, "fsck", "--full", "--strict")
        number = int(_git(copy, "log", "-1", "--format=%s"))
        if int(_git(copy, "rev-list", "--count", "HEAD")) != number + 1:
            raise Broken(f"commit {number} lacks ancestors")
        tree = _tree(number)
        if _git(copy, "show", *(f"HEAD:{name}" for name in tree)) != "".join(tree.values()):
            raise Broken(f"commit {number} has a wrong file")
        return (number,)

    def check_strict(self, copy: Path) -> Counts:
        """No command is under way: what it locks and what it has yet to name would be left."""
        patterns = ("*.lock", "tmp_obj_*")
        if left := [path.name for each in patterns for path in (copy / ".git").rglob(each)]:
            raise Broken(f"a command is under way: {left}")
        return self.check(copy)


def _git(place: Path, *arguments: str) -> str:
    """Run git in a copy, which may belong to somebody else."""
    return _run("git", "-c", f"safe.directory={place}", *arguments, cwd=place)


def _tree(number: int) -> dict[str, str]:
    files = {"number": f"{number}\n", f"src/{number % 7}.c": f"int n = {number};\n" * 50}
    for older in range(max(0, number - 6), number):
        files[f"src/{older % 7}.c"] = f"int n = {older};\n" * 50
    return files


def _write_tree(place: Path, number: int) -> None:
    for name in ("number", f"src/{number % 7}.c"):
        (place / name).write_text(_tree(number)[name])


class Maildir(Program):
    """Delivery by Python's mailbox module; now and then an older message is read, as mail readers
    do that: it moves from new/ to cur/."""

    name = "maildir"
    READ_EVERY = 5

    def prepare(self, place: Path) -> None:
        mailbox.Maildir(place / "mail", create=True).close()

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        box = mailbox.Maildir(place / "mail", create=False)
        delivered: list[str] = []

        def do(number: int) -> None:
            body = chance.randbytes(chance.randrange(9000)).hex()
            text = "\n".join(body[at : at + 72] for at in range(0, len(body), 72)) + "\n"
            message = mailbox.MaildirMessage()
            message["Subject"] = f"{number} {zlib.crc32(text.encode())}"
            message.set_payload(text)
            delivered.append(box.add(message))
            if number % self.READ_EVERY == 0:
                key = delivered.pop(0)
                os.rename(place / "mail" / "new" / key, place / "mail" / "cur" / f"{key}:2,S")

        yield do

    def check(self, copy: Path) -> Counts:
        numbers = []
        for folder in ("new", "cur"):
            for path in (copy / "mail" / folder).iterdir():
                with path.open("rb") as file:
                    message = mailbox.MaildirMessage(file)
                number, _, check = (message["Subject"] or "").partition(" ")
                payload = message.get_payload()
                if not check or zlib.crc32(str(payload).encode()) != int(check):
                    raise Broken(f"the message {path.name} is not whole")
                numbers.append(int(number))
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            raise Broken(f"there are {len(numbers)} messages up to {max(numbers)}")
        return (len(numbers),)

    def check_strict(self, copy: Path) -> Counts:
        """A name in tmp/ is left from a delivery that is done, not of one that is under way."""
        for path in (copy / "mail" / "tmp").iterdir():
            if path.stat().st_nlink == 1:
                raise Broken(f"a delivery is under way: {path.name}")
        return self.check(copy)


class AppendLog(Program):
    """Lines of any length, each written in pieces as stdio does, and synced."""

    name = "log"
    strict_files = ("log",)
    BUFFER_BYTES = 4096

    def prepare(self, place: Path) -> None:
        (place / "log").touch()

    @contextmanager
    def session(self, place: Path, chance: random.Random, client: int) -> Iterator[Transact]:
        log = os.open(place / "log", os.O_WRONLY | os.O_APPEND)

        def do(number: int) -> None:
            body = b"%d %s" % (number, chance.randbytes(chance.randrange(5000)).hex().encode())
            line = b"%s %d\n" % (body, zlib.crc32(body))
            for at in range(0, len(line), self.BUFFER_BYTES):
                os.write(log, line[at : at + self.BUFFER_BYTES])
            os.fsync(log)

        try:
            yield do
        finally:
            os.close(log)

    def check(self, copy: Path) -> Counts:
        """A reader after a crash leaves out a last line without an end."""
        return _check_lines((copy / "log").read_bytes().rpartition(b"\n")[0])

    def check_strict(self, copy: Path) -> Counts:
        data = (copy / "log").read_bytes()
        if data and not data.endswith(b"\n"):
            raise Broken("the last line is not whole")
        return _check_lines(data.removesuffix(b"\n"))


def _check_lines(data: bytes) -> Counts:
    lines = data.split(b"\n") if data else []
    for number, line in enumerate(lines, 1):
        body, _, check = line.rpartition(b" ")
        if not check.isdigit() or zlib.crc32(body) != int(check):
            raise Broken(f"line {number} is not whole")
        if int(body.split(b" ", 1)[0]) != number:
            raise Broken(f"line {number} has another number")
    return (len(lines),)
