"""Shipping a volume's log to a vault, and the vault itself.

The sender (`sender`) is a process beside the daemon; the receiver (`vault`) is an ASGI application.
Between them go shipments (`shipment`) under the messages of `wire`.
"""
