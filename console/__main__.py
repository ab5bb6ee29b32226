"""`python -m console` is `cdpfs`."""

from console.cli import main

main()
