"""Scatter-gather lists of any buffers, at any address, of any length."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Final

from iser.errors import UsageError

__all__ = ["Buffer", "SgList", "address_of", "scatter", "slice_views"]

# What the buffer protocol accepts; ``array.array``, ``mmap`` and numpy arrays count too.
Buffer = bytes | bytearray | memoryview


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of the C API, for the address of memory that ctypes will not export because it is read-only."""

    _fields_: Final = [  # type: ignore[misc]  # ctypes wants a plain class attribute
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None
_c_char = ctypes.c_char
_addressof = ctypes.addressof


def address_of(view: memoryview) -> int:
    """The address of the first byte of a non-empty ``view``."""
    if not view.readonly:
        return _addressof(_c_char.from_buffer(view))
    exported = _PyBuffer()
    _get_buffer(view, ctypes.byref(exported), 0)
    try:
        return int(exported.buf)
    finally:
        _release_buffer(ctypes.byref(exported))


class SgList:
    """An immutable list of memory pieces: parallel ``views`` (flat bytes), ``addresses`` and ``lengths``.

    Empty pieces are dropped, and neighbours that follow each other in one object are joined.  The list keeps the memory
    exported, so a ``bytearray`` cannot be resized and an ``mmap`` cannot be closed under an operation in flight.
    ``length`` is the sum in bytes.
    """

    __slots__ = ("addresses", "length", "lengths", "views")

    def __init__(self, views: list[memoryview], addresses: list[int], lengths: list[int]) -> None:
        self.views: Sequence[memoryview] = views
        self.addresses: Sequence[int] = addresses
        self.lengths: Sequence[int] = lengths
        self.length = sum(lengths)

    def __len__(self) -> int:
        return len(self.views)

    def __repr__(self) -> str:
        return f"<SgList {len(self.views)} elements, {self.length} bytes>"

    @classmethod
    def of(cls, buffers: Buffer | Iterable[Buffer], *, writable: bool) -> SgList:
        """Make a list of one buffer or of several.

        Raises UsageError for an object without a contiguous buffer, and for a read-only one if ``writable``.
        """
        views: list[memoryview] = []
        addresses: list[int] = []
        lengths: list[int] = []
        end = -1
        for index, buffer in enumerate(_pieces(buffers)):
            view = _flat(buffer, index)
            length = view.nbytes
            if not length:
                continue
            if writable and view.readonly:
                raise UsageError(f"buffer {index} is read-only; data can only be read into writable memory")
            address = address_of(view)
            joined = _join(views[-1], view, addresses[-1]) if address == end else None
            if joined is None:
                views.append(view)
                addresses.append(address)
                lengths.append(length)
            else:
                views[-1] = joined
                lengths[-1] += length
            end = address + length
        return cls(views, addresses, lengths)

    def gather(self) -> bytes:
        """The bytes of the list, copied into one piece."""
        return b"".join(self.views)

    def scatter(self, source: memoryview) -> None:
        """Copy ``source``, at most ``length`` bytes, over the list from its first byte on."""
        scatter(source, self.views)

    def slice(self, offset: int, length: int) -> list[memoryview]:
        """The pieces that make up ``length`` bytes from ``offset`` on."""
        return slice_views(self.views, offset, length)


def slice_views(views: Sequence[memoryview], offset: int, length: int) -> list[memoryview]:
    """The pieces of ``views`` that make up ``length`` bytes from ``offset`` on, or what there is of them."""
    pieces = []
    for view in views:
        size = len(view)
        if offset >= size:
            offset -= size
            continue
        if length <= 0:
            break
        piece = view[offset : offset + length]
        pieces.append(piece)
        length -= len(piece)
        offset = 0
    return pieces


def scatter(source: memoryview | bytes | bytearray, views: Sequence[memoryview]) -> None:
    """Copy ``source`` over ``views``, from their first byte on, as far as both go."""
    at, total = 0, len(source)
    for view in views:
        length = min(len(view), total - at)
        if not length:
            return
        view[:length] = source[at : at + length]
        at += length


def _pieces(buffers: Buffer | Iterable[Buffer]) -> Iterable[Buffer]:
    """One object with a buffer (an ``array`` is iterable too) or several."""
    if isinstance(buffers, (list, tuple)):
        return buffers
    try:
        return (memoryview(buffers),)  # type: ignore[arg-type]  # the buffer protocol has no type before Python 3.12
    except TypeError:
        if isinstance(buffers, Iterable):
            return buffers  # type: ignore[return-value]  # bytes were taken for memory above
        raise UsageError(f"{type(buffers).__name__} is no memory; pass bytes-like objects") from None


def _flat(buffer: object, index: int) -> memoryview:
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]  # TypeError is what we are asking for
        return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")
    except TypeError as error:
        kind = type(buffer).__name__
        raise UsageError(
            f"buffer {index} ({kind}) is not contiguous memory: {error}; pass bytes-like objects"
        ) from None


def _join(first: memoryview, second: memoryview, address: int) -> memoryview | None:
    """One view over two neighbours, if they lie in the same object."""
    if first.obj is not second.obj:
        return None
    whole = _flat(first.obj, 0)
    start = address - address_of(whole)
    return whole[start : start + first.nbytes + second.nbytes]
