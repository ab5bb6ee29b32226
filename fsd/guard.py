"""The one place where exceptions become FUSE errors.

An exception that leaves a pyfuse3 handler kills the mount, so none may: errors of the backing tree
keep their number, the store's become ENOSPC or EIO, and anything unforeseen is EIO and a traceback
in the log.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from store.errors import StoreError, StoreFull, TemporaryStoreError
from timetravel.errors import TimetravelError

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fuse_error(error: BaseException) -> pyfuse3.FUSEError:
    """What the kernel is told of an exception."""
    if isinstance(error, pyfuse3.FUSEError):
        return error
    if isinstance(error, StoreFull):
        return pyfuse3.FUSEError(errno.ENOSPC)
    if isinstance(error, TemporaryStoreError):
        return pyfuse3.FUSEError(errno.EIO)
    if isinstance(error, OSError) and error.errno:
        return pyfuse3.FUSEError(error.errno)
    if isinstance(error, TimetravelError):
        log.info("%s; %s", error, error.hint)
        return pyfuse3.FUSEError(errno.ENOENT)
    if isinstance(error, StoreError):
        log.error("%s; %s", error, error.hint)
        return pyfuse3.FUSEError(errno.EIO)
    log.error("a request failed in a way that nobody foresaw", exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)


def guarded(
    handler: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """A method of a class with a `chance` that raises nothing but FUSEError (and Cancelled).

    It is tried again, once, when `SecondChance` says so.
    """

    async def again(error: Exception, args: Any, options: Any) -> Any:
        try:
            if await args[0].chance.is_worth_it(error):
                return await handler(*args, **options)
        except (pyfuse3.FUSEError, trio.Cancelled):
            raise
        except Exception as later:  # noqa: BLE001  (as below)
            error = later
        raise fuse_error(error) from None

    @functools.wraps(handler)
    async def run(*args: Any, **options: Any) -> Any:
        try:
            return await handler(*args, **options)
        except (pyfuse3.FUSEError, trio.Cancelled, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001  (that is the point)
            return await again(error, args, options)

    return run
