"""Have the test machine work with its tape library: `scripts/tape`.

python -m tests.tape_guest [--short] [--verbose] [--parts suites,vault]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.crash.guests import Machine
from tests.tape_guest.guest import PARTS, SHORT_PARTS
from tests.volume import SOURCE

IMAGE_BYTES = 1 << 30


def main() -> int:
    """1 when any part failed."""
    parser = argparse.ArgumentParser(prog="scripts/tape")
    parser.add_argument("--short", action="store_true", help="as CI does it")
    parser.add_argument("--verbose", action="store_true", help="also what the machine printed")
    parser.add_argument("--parts", help=f"which, with commas: {','.join(PARTS)}")
    options = parser.parse_args()
    chosen = SHORT_PARTS if options.short else PARTS
    parts = options.parts.split(",") if options.parts else list(chosen)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    words = [sys.executable, "-m", "tests.tape_guest.guest", *parts]
    if options.short:
        words.append("--short")
    with tempfile.TemporaryDirectory() as folder:
        share = Path(folder) / "share"
        results = run(share, " ".join(words), parts)
        if options.verbose:
            print((share / "console.log").read_text(errors="replace").replace("\r", ""))
    failed = 0
    for part, words_of_it in results.items():
        failed += words_of_it != "passed"
        print(f"{part}: {words_of_it}")
    print(f"{len(results) - failed} passed, {failed} failed")
    return int(bool(failed))


def run(share: Path, command: str, parts: list[str]) -> dict[str, str]:
    """What became of each part: "passed", or what is wrong."""
    # The machine could not keep what it compiles, and is slow at it.
    folders = [SOURCE / name for name in ("store", "timetravel", "fsd", "tape", "console", "tests")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)
    image = share.parent / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, stdout=subprocess.DEVNULL)
    machine = Machine(share, [image], command)
    try:
        machine.wait()
    finally:
        machine.kill()
    results = {}
    for part in parts:
        path = share / f"{part}.result"
        results[part] = path.read_text() if path.exists() else f"not done\n{machine.console()}"
    return results


if __name__ == "__main__":
    sys.exit(main())
