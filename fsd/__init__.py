"""The filesystem daemon: the mount, capture of every change, seeding and recovery.

Duty: behave as the backing filesystem does, and log each change before it is made. One
process runs the pyfuse3/trio loop and does nothing there that another process could do.
The only package that imports pyfuse3. It never imports its siblings `replicator` and `tape`.
"""
