"""Every human-facing admin interface: the `cdpfs` command line and the web console.

Duty: say what a volume does and carry out what its keeper asks, through the control socket
and the packages below. Nothing imports this package.
"""
