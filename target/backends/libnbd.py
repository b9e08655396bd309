"""The little of libnbd's C interface that the NBD backend uses (libnbd(3)), bound at run time."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from typing import Any

from iser.errors import BackendError

__all__ = ["CompletionCallback", "ExtentCallback", "Library", "library"]

_EXTENT_FUNCTION = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_int),
)


class CompletionCallback(ctypes.Structure):
    """nbd_completion_callback, by value; all zeros is none."""

    _fields_ = (("callback", ctypes.c_void_p), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))


class ExtentCallback(ctypes.Structure):
    """nbd_extent_callback, by value."""

    _fields_ = (("callback", _EXTENT_FUNCTION), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))

    @classmethod
    def collect(cls, entries: list[tuple[int, int]]) -> ExtentCallback:
        """One that appends (length, flags) of each extent.  It must live until the request is over."""

        def append(_data: int, _context: bytes, _offset: int, found: Any, count: int, _error: Any) -> int:
            entries.extend((found[index], found[index + 1]) for index in range(0, count, 2))
            return 0

        return cls(_EXTENT_FUNCTION(append), None, None)


_HANDLE, _SIZE, _OFFSET, _FLAGS = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32
_NAME, _MEMORY, _INT = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int

#: Result and argument types, after the handle.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "nbd_add_meta_context": (_INT, (_NAME,)),
    "nbd_connect_uri": (_INT, (_NAME,)),
    "nbd_get_size": (ctypes.c_int64, ()),
    "nbd_get_block_size": (ctypes.c_int64, (_INT,)),
    "nbd_is_read_only": (_INT, ()),
    "nbd_can_flush": (_INT, ()),
    "nbd_can_fua": (_INT, ()),
    "nbd_can_zero": (_INT, ()),
    "nbd_can_meta_context": (_INT, (_NAME,)),
    "nbd_aio_get_fd": (_INT, ()),
    "nbd_aio_get_direction": (ctypes.c_uint, ()),
    "nbd_aio_notify_read": (_INT, ()),
    "nbd_aio_notify_write": (_INT, ()),
    "nbd_aio_is_closed": (_INT, ()),
    "nbd_aio_is_dead": (_INT, ()),
    "nbd_aio_peek_command_completed": (ctypes.c_int64, ()),
    "nbd_aio_command_completed": (_INT, (ctypes.c_int64,)),
    "nbd_aio_pread": (ctypes.c_int64, (_MEMORY, _SIZE, _OFFSET, CompletionCallback, _FLAGS)),
    "nbd_aio_pwrite": (ctypes.c_int64, (_MEMORY, _SIZE, _OFFSET, CompletionCallback, _FLAGS)),
    "nbd_aio_flush": (ctypes.c_int64, (CompletionCallback, _FLAGS)),
    "nbd_aio_zero": (ctypes.c_int64, (ctypes.c_uint64, _OFFSET, CompletionCallback, _FLAGS)),
    "nbd_aio_block_status": (
        ctypes.c_int64,
        (ctypes.c_uint64, _OFFSET, ExtentCallback, CompletionCallback, _FLAGS),
    ),
    "nbd_close": (None, ()),
}


class Library:
    """The functions, with failures as BackendError.  Raises OSError when the library is not there."""

    def __init__(self, name: str) -> None:
        functions = ctypes.CDLL(name)
        functions.nbd_create.restype = ctypes.c_void_p
        functions.nbd_get_error.restype = ctypes.c_char_p
        for function, (result, arguments) in _FUNCTIONS.items():
            bound = getattr(functions, function)
            bound.restype, bound.argtypes = result, (_HANDLE, *arguments)
        self._functions = functions

    def connect(self, uri: str, context: bytes) -> int:
        """A handle connected to ``uri``, with a metadata context asked for.  Raises BackendError."""
        handle = self._functions.nbd_create()
        if not handle:
            raise self._failure()
        try:
            self.call("nbd_add_meta_context", handle, context)
            self.call("nbd_connect_uri", handle, uri.encode())
        except BackendError:
            self.close(handle)
            raise
        return int(handle)

    def call(self, function: str, handle: int | None, *arguments: object) -> int:
        """Call a function that returns a negative number on failure.  Raises BackendError."""
        result = self.plain(function, handle, *arguments)
        if result < 0:
            raise self._failure()
        return result

    def plain(self, function: str, handle: int | None, *arguments: object) -> int:
        """Call a function, whatever it returns."""
        return int(getattr(self._functions, function)(handle, *arguments))

    def errno(self) -> int:
        """The error number of the last failure in this thread."""
        return int(self._functions.nbd_get_errno())

    def close(self, handle: int | None) -> None:
        """Free a handle."""
        self._functions.nbd_close(handle)

    def _failure(self) -> BackendError:
        words = self._functions.nbd_get_error() or b"no reason given"
        return BackendError(words.decode(errors="replace"), medium=False)


@functools.cache
def library() -> Library:
    """The library, loaded once.  Raises BackendError, in one sentence, when it is missing."""
    name = ctypes.util.find_library("nbd") or "libnbd.so.0"
    try:
        return Library(name)
    except (OSError, AttributeError) as error:
        raise BackendError("an nbd LUN needs libnbd; install the package libnbd0", medium=False) from error
