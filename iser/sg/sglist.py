"""Scatter-gather lists of any buffers, at any address, of any length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import addressof, c_char
from itertools import accumulate
from operator import add, attrgetter, eq
from typing import Final

from iser.errors import UsageError
from iser.rdma.address import address_of
from iser.sg.shape import BLOCK, Shape, has_gaps, overlaps, shape_of

__all__ = ["Buffer", "SgList", "address_of", "scatter", "slice_views"]

# What the buffer protocol accepts; ``array.array``, ``mmap`` and numpy arrays count too.
Buffer = bytes | bytearray | memoryview

_from_buffer = c_char.from_buffer
_format = attrgetter("format")
_ndim = attrgetter("ndim")
_nbytes = attrgetter("nbytes")
_Columns = tuple[Sequence[memoryview], Sequence[int], Sequence[int]]  # views, addresses, lengths
_VIEWS: Final = {memoryview}
_BYTES: Final = {"B"}
_LINES: Final = {1}
_BLOCK_SHIFT = BLOCK.bit_length() - 1


class SgList:
    """An immutable list of memory pieces: parallel ``views`` (flat bytes), ``addresses`` and ``lengths``.

    Empty pieces are dropped, and neighbours that follow each other in one object are joined.  The list keeps the memory
    exported, so a ``bytearray`` cannot be resized and an ``mmap`` cannot be closed under an operation in flight.
    ``length`` is the sum in bytes.
    """

    __slots__ = (
        "_blocks",
        "_gappy",
        "_overlaps",
        "_readonly",
        "_shape",
        "_starts",
        "addresses",
        "length",
        "lengths",
        "views",
    )

    def __init__(self, views: Sequence[memoryview], addresses: Sequence[int], lengths: Sequence[int]) -> None:
        self.views = views
        self.addresses = addresses
        self.lengths = lengths
        # What nobody asks for is never found out: that costs more than all else about a long list.
        self._shape: Shape | None = None
        self._readonly: bool | None = None
        self._blocks = 0
        self._starts: Sequence[int] | None = None
        self._gappy: bool | None
        self._overlaps: bool | None
        if len(lengths) == 1:
            self.length = lengths[0]
            self._gappy = self._overlaps = False
        else:
            self.length = sum(lengths)
            self._gappy = self._overlaps = None

    def __len__(self) -> int:
        return len(self.views)

    def __repr__(self) -> str:
        return f"<SgList {len(self.views)} elements, {self.length} bytes>"

    @property
    def shape(self) -> Shape:
        """What a non-empty list looks like to a page list; found out once."""
        shape = self._shape
        if shape is None:
            shape = self._shape = shape_of(self)
        return shape

    @property
    def gappy(self) -> bool:
        """True when no page list describes the list; found out once, and as a rule from its first elements."""
        known = self._gappy
        if known is None:
            known = self._gappy = has_gaps(self.addresses, self.lengths)
        return known

    @property
    def blocks(self) -> int:
        """Entries of a page list for a list that is not empty; counted once."""
        blocks = self._blocks
        if not blocks:
            if len(self.lengths) == 1:
                address = self.addresses[0]
                blocks = (address + self.length - 1 >> _BLOCK_SHIFT) - (address >> _BLOCK_SHIFT) + 1
            else:
                blocks = self.shape.blocks
            self._blocks = blocks
        return blocks

    @property
    def starts(self) -> Sequence[int]:
        """Where each element begins in the concatenation; found out once.  No element is empty."""
        starts = self._starts
        if starts is None:
            starts = self._starts = (0,) if len(self.lengths) == 1 else [0, *accumulate(self.lengths[:-1])]
        return starts

    @property
    def overlaps(self) -> bool:
        """True when a byte of memory stands in the list twice; found out once."""
        known = self._overlaps
        if known is None:
            known = self._overlaps = overlaps(self)
        return known

    @property
    def readonly(self) -> bool:
        """True when some of the memory cannot be written; found out once."""
        known = self._readonly
        if known is None:
            known = self._readonly = any(view.readonly for view in self.views)
        return known

    @classmethod
    def of(cls, buffers: Buffer | Iterable[Buffer] | SgList, *, writable: bool) -> SgList:
        """Make a list of one buffer or of several; a list that is one already is taken as it is.

        Raises UsageError for an object without a contiguous buffer, and for a read-only one if ``writable``.
        """
        if isinstance(buffers, SgList):
            if writable and buffers.readonly:
                raise UsageError("the list has read-only memory; data can only be read into writable memory")
            return buffers
        pieces = buffers if isinstance(buffers, (list, tuple)) else _pieces(buffers)
        columns = _alone(pieces[0], writable=writable) if len(pieces) == 1 else _several(pieces, writable=writable)
        sg = cls(*columns)
        if writable:
            sg._readonly = False
        return sg

    @classmethod
    def spans(cls, buffer: Buffer, spans: Iterable[tuple[int, int]]) -> SgList:
        """A list of (offset, length) spans of one flat buffer: quicker than :meth:`of`, as one address gives all.

        Empty spans are dropped and neighbours joined.  Raises UsageError for a span that the buffer does not have.
        """
        memory = _flat(buffer, 0)
        size = memory.nbytes
        base = address_of(memory) if size else 0
        offsets: list[int] = []
        lengths: list[int] = []
        end = -1
        for offset, length in spans:
            if offset < 0 or length < 0 or offset + length > size:
                raise UsageError(f"the span of {length} bytes at {offset} is not inside the buffer of {size} bytes")
            if offset == end and length:
                lengths[-1] += length
            elif length:
                offsets.append(offset)
                lengths.append(length)
            end = offset + length if length else end
        views = [memory[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)]
        return cls(views, [base + offset for offset in offsets], lengths)

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
        end = at + len(view)
        if end > total:
            view[: total - at] = source[at:]
            return
        view[:] = source[at:end]
        at = end


def _pieces(buffers: Buffer | Iterable[Buffer]) -> Sequence[Buffer]:
    """One object with a buffer (an ``array`` is iterable too), or several that come from an iterable."""
    try:
        return (memoryview(buffers),)  # type: ignore[arg-type]  # the buffer protocol has no type before Python 3.12
    except TypeError:
        if isinstance(buffers, Iterable):
            return tuple(buffers)  # type: ignore[arg-type]  # bytes were taken for memory above
        raise UsageError(f"{type(buffers).__name__} is no memory; pass bytes-like objects") from None


def _alone(piece: Buffer, *, writable: bool) -> _Columns:
    """A list of one."""
    view = piece if type(piece) is memoryview and piece.format == "B" and piece.ndim == 1 else _flat(piece, 0)
    length = view.nbytes
    if not length:
        return (), (), ()
    if not view.readonly and view.contiguous:
        return (view,), (addressof(_from_buffer(view)),), (length,)
    if view.readonly and writable:
        raise _not_writable(0)
    if not view.contiguous:
        view = _flat(view, 0)
    return (view,), (address_of(view),), (length,)


def _several(pieces: Sequence[Buffer], *, writable: bool) -> _Columns:
    """A list of several, by loops in C as far as it goes: most lists are of views of bytes that may be written."""
    views: Sequence[memoryview]
    if set(map(type, pieces)) == _VIEWS and set(map(_format, pieces)) == _BYTES and set(map(_ndim, pieces)) == _LINES:
        views = tuple(pieces)  # type: ignore[arg-type]  # they are all views
    else:
        views = [_flat(piece, index) for index, piece in enumerate(pieces)]
    lengths: Sequence[int] = list(map(_nbytes, views))
    if not all(lengths):
        views = [view for view in views if view]
        lengths = [length for length in lengths if length]
    try:
        addresses: Sequence[int] = list(map(addressof, map(_from_buffer, views)))
    except TypeError:  # some are read-only, or not contiguous
        views = _readable(pieces, writable=writable)
        lengths, addresses = list(map(_nbytes, views)), list(map(address_of, views))
    if any(map(eq, map(add, addresses, lengths), addresses[1:])):
        return _joined(views, addresses, lengths)
    return views, addresses, lengths


def _readable(pieces: Sequence[Buffer], *, writable: bool) -> list[memoryview]:
    """The flat views of what is not empty.  Raises UsageError for what is no such memory."""
    views = [_flat(piece, index) for index, piece in enumerate(pieces)]
    for index, view in enumerate(views):
        if writable and view.readonly and view:
            raise _not_writable(index)
    return [view for view in views if view]


def _not_writable(index: int) -> UsageError:
    return UsageError(f"buffer {index} is read-only; data can only be read into writable memory")


def _joined(views: Sequence[memoryview], addresses: Sequence[int], lengths: Sequence[int]) -> _Columns:
    """The same list, with neighbours that follow each other in one object as one element."""
    whole: list[memoryview] = []
    starts: list[int] = []
    sizes: list[int] = []
    end = -1
    for view, address, length in zip(views, addresses, lengths, strict=True):
        joined = _join(whole[-1], view, starts[-1]) if address == end else None
        if joined is None:
            whole.append(view)
            starts.append(address)
            sizes.append(length)
        else:
            whole[-1] = joined
            sizes[-1] += length
        end = address + length
    return whole, starts, sizes


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
    joined = whole[start : start + first.nbytes + second.nbytes]
    # The object may be writable where the views of it are not.
    return joined.toreadonly() if first.readonly or second.readonly else joined
