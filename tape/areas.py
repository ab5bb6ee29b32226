"""What of a file in a view has content, and what was lost before it was captured.

Duty: the data areas of any stretch of a file, also where the journal never got the content: such
regions count as holes, and are told. Synchronous; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from store.errors import NeverCaptured
from store.format import CHUNK_BYTES
from store.types import NodeId
from tape.sparse import Area
from timetravel.view import Piece, View

_WINDOW_BYTES = 16 * CHUNK_BYTES


def data_areas(
    view: View, node: NodeId, start: int, stop: int, lost: Callable[[int, int], None]
) -> Iterator[Area]:
    """The areas within `[start, stop)` that are not holes, in order; they may touch.

    `lost` is called with each stretch of which the content was never captured. NotSeeded.
    """
    for window in range(start, stop, _WINDOW_BYTES):
        window_stop = min(window + _WINDOW_BYTES, stop)
        try:
            pieces = view.pieces(node, window, window_stop)
        except NeverCaptured:
            pieces = _known_pieces(view, node, window, window_stop, lost)
        for piece in pieces:
            if piece.source:
                yield piece.start, piece.stop


def _known_pieces(
    view: View, node: NodeId, start: int, stop: int, lost: Callable[[int, int], None]
) -> list[Piece]:
    """The pieces of those regions that the journal has."""
    found: list[Piece] = []
    while start < stop:
        cut = min(stop, (start // CHUNK_BYTES + 1) * CHUNK_BYTES)
        try:
            found += view.pieces(node, start, cut)
        except NeverCaptured:
            lost(start, cut)
        start = cut
    return found
