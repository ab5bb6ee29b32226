"""The bounds on what a vault's clients may ask of it. Pure."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """Every bound of a serving vault that is not one of `replicator.wire`."""

    connections: int = 512
    """At the same time; what comes on top is sent away."""
    strangers: int = 64
    """Connections that have not shown a valid token yet."""
    strangers_of_place: int = 24
    """Of these, from one address (IPv6: from one network of 64 bits), so that nobody alone can keep
    all sites out."""
    stranger_s: float = 30.0
    """So long a connection may take until its first request with a valid token."""
    handshake_s: float = 20.0
    """For TLS."""
    idle_s: float = 900.0
    """A connection between two requests; a handshake costs more than a line at rest."""
    head_s: float = 60.0
    """From the first byte of a request to the end of its head."""
    silence_s: float = 120.0
    """In the midst of a body without a byte."""
    linger_s: float = 5.0
    """After a refusal the rest of the body is read for so long, so that its sender sees the answer:
    a connection that is closed with unread bytes in it takes the answer with it."""
    stop_s: float = 5.0
    """What is at work may take so long to end when the vault stops."""
    head_bytes: int = 16 << 10
    """Of a request's line and headers."""
    site_requests: int = 16
    """At work for one site at the same time."""
    ingests: int = 2
    """Shipments that are decoded and indexed at the same time, for they take memory."""
