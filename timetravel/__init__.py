"""Reading the past: moments, barriers and the read-only view of a volume as of one LSN.

Duty: turn what a person asks for into an LSN, and an LSN into names, attributes and content.
It reads through `store` and changes nothing; FUSE, restore and HTTP are adapters elsewhere.
"""
