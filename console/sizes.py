"""Sizes as people type them. Pure."""

from __future__ import annotations

import re

from console.errors import WrongUse

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes that `512`, `64K`, `128M`, `1.5G` or `2T` mean (powers of 1024). WrongUse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise WrongUse(f"{text!r} is no size", "write bytes, or a number with K, M, G or T: 128M")
    return int(float(found[1]) * _FACTORS[found[2].upper()])
