"""The tape library: a sealed vault that needs no hands.

Duty: copies of the journal on cartridges, each set of which is enough to get the volume back.
It knows the store and past states (`store`, `timetravel`), and nothing of the mount or the line.
"""
