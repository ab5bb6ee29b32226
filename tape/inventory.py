"""Taking the inventory of a library into its books.

Duty: have the robot say what is where, and record what that proves. What needs the labels read is
`Robot`'s. Blocking; one thread; the library's lock is held.
"""

from __future__ import annotations

from tape.catalogue_file import CatalogueFile
from tape.changer import Element
from tape.library import Library
from tape.stocktaking import take_stock


def take_inventory(
    library: Library, catalogue: CatalogueFile, now_ns: int, rescan: bool = False
) -> tuple[Element, ...]:
    """Record what is where; returns the slots and doors whose cartridge only its label can tell.

    `rescan`: the robot looks at its barcodes again. ChangerJam, StoreError.
    """
    inventory = library.changer.inventory(rescan)
    stock = take_stock(catalogue.state, inventory, library.settings.cleaning_prefix, now_ns)
    if stock.events:
        catalogue.append(*stock.events)
    return stock.unread
