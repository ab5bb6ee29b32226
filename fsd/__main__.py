"""`python -m fsd STORE [--ready-fd N]`: the mounting daemon of one volume."""

from fsd.daemon import main

main()
