"""Scatter-gather lists of any buffers, at any address, of any length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import addressof, c_char

from iser.errors import UsageError
from iser.rdma.address import address_of
from iser.sg.shape import Shape, overlaps, shape_of

__all__ = ["Buffer", "SgList", "address_of", "scatter", "slice_views"]

# What the buffer protocol accepts; ``array.array``, ``mmap`` and numpy arrays count too.
Buffer = bytes | bytearray | memoryview

_from_buffer = c_char.from_buffer


class SgList:
    """An immutable list of memory pieces: parallel ``views`` (flat bytes), ``addresses`` and ``lengths``.

    Empty pieces are dropped, and neighbours that follow each other in one object are joined.  The list keeps the memory
    exported, so a ``bytearray`` cannot be resized and an ``mmap`` cannot be closed under an operation in flight.
    ``length`` is the sum in bytes.
    """

    __slots__ = ("_overlaps", "_readonly", "_shape", "addresses", "length", "lengths", "views")

    def __init__(self, views: list[memoryview], addresses: list[int], lengths: list[int]) -> None:
        self.views: Sequence[memoryview] = views
        self.addresses: Sequence[int] = addresses
        self.lengths: Sequence[int] = lengths
        self.length = sum(lengths)
        self._shape: Shape | None = None
        self._overlaps: bool | None = None
        self._readonly: bool | None = None

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
        views: list[memoryview] = []
        addresses: list[int] = []
        lengths: list[int] = []
        end = -1
        for index, buffer in enumerate(_pieces(buffers)):
            # Most pieces are writable views of bytes: for these, a look tells that they may stay as they are.
            view = (
                buffer
                if type(buffer) is memoryview and buffer.format == "B" and buffer.ndim == 1
                else _flat(buffer, index)
            )
            length = view.nbytes
            if not length:
                continue
            try:
                address = addressof(_from_buffer(view))
            except TypeError:  # read-only, or not contiguous
                view = _flat(view, index)
                if writable and view.readonly:
                    raise UsageError(
                        f"buffer {index} is read-only; data can only be read into writable memory"
                    ) from None
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
        sg = cls(views, addresses, lengths)
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
