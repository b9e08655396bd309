"""One declaration of a fixed wire format, and the two codecs derived from it.

A format is a ``NamedTuple`` whose fields say where they stand: ``Annotated[int, At(offset, subcon)]``.  From the hints
:func:`construct_of` makes the clear form, a construct ``Struct``; :class:`FastCodec` makes the form that runs per PDU:
functions generated around one ``struct.Struct``, as ``namedtuple`` generates its own.  The tests prove both equal.

A byte that no field covers is reserved: sent as zero and ignored on receipt (RFC 7143 section 11).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, get_type_hints

from construct import Bytes, BytesInteger, Construct, FormatField, Padding, Struct

from iser.errors import LocalProtocolError, PduError, UsageError

__all__ = ["At", "Build", "BuildInto", "FastCodec", "Parse", "ReadBuffer", "WriteBuffer", "construct_of"]

ReadBuffer = bytes | bytearray | memoryview
WriteBuffer = bytearray | memoryview

T = TypeVar("T", bound=tuple[Any, ...])
T_co = TypeVar("T_co", bound=tuple[Any, ...], covariant=True)
T_contra = TypeVar("T_contra", bound=tuple[Any, ...], contravariant=True)

BYTES_OF_INT24: Final = 3


@dataclass(frozen=True, slots=True)
class At:
    """The place of a field: ``offset`` in bytes from the start of the format, and the construct ``subcon`` there."""

    offset: int
    subcon: Construct


class Parse(Protocol[T_co]):
    """Reads the value at ``offset`` bytes into ``buffer``; :class:`PduError` where the buffer is too short."""

    def __call__(self, buffer: ReadBuffer, offset: int = 0) -> T_co: ...


class Build(Protocol[T_contra]):
    """Returns the wire form; :class:`LocalProtocolError` where a field does not fit its place."""

    def __call__(self, value: T_contra) -> bytes: ...


class BuildInto(Protocol[T_contra]):
    """Writes the wire form at ``offset``; :class:`LocalProtocolError` where a field or the whole does not fit."""

    def __call__(self, buffer: WriteBuffer, offset: int, value: T_contra) -> None: ...


@dataclass(frozen=True, slots=True)
class _Field:
    """A field with its place, and the pieces of generated source that carry it.

    ``raws`` are the local names that the struct format ``code`` yields, ``merged`` makes the field's value from them
    and ``split`` makes them from the field's value.
    """

    name: str
    offset: int
    subcon: Construct
    size: int
    code: str
    raws: tuple[str, ...]
    merged: str
    split: str

    def fits(self, value: object) -> bool:
        if isinstance(self.subcon, Bytes):
            return isinstance(value, bytes | bytearray) and len(value) == self.size
        # bool is an int to struct as well.
        return isinstance(value, int) and 0 <= value < 1 << 8 * self.size

    @property
    def range(self) -> str:
        if isinstance(self.subcon, Bytes):
            return f"exactly {self.size} bytes"
        return f"an integer from 0 to {(1 << 8 * self.size) - 1}"


def _field(name: str, at: At) -> _Field:
    """The field ``name`` at its place; locals of the generated code start with ``f_`` and so never collide."""
    subcon, size, local = at.subcon, at.subcon.sizeof(), f"f_{name}"
    if isinstance(subcon, BytesInteger):
        if size == BYTES_OF_INT24 and not subcon.signed and not subcon.swapped:
            # struct knows no 24-bit integer.  Its high byte and low half are checked by struct when it packs them,
            # which a merge with the byte before it would not be.
            raws = (f"{local}_high", f"{local}_low")
            merged, split = f"{raws[0]} << 16 | {raws[1]}", f"{local} >> 16, {local} & 0xFFFF"
            return _Field(name, at.offset, subcon, size, "BH", raws, merged, split)
    elif isinstance(subcon, Bytes):
        return _Field(name, at.offset, subcon, size, f"{size}s", (local,), local, local)
    elif isinstance(subcon, FormatField) and subcon.fmtstr in (">B", ">H", ">L", ">I", ">Q"):
        return _Field(name, at.offset, subcon, size, subcon.fmtstr[1:], (local,), local, local)
    raise UsageError(f"field {name}: no fast form of {subcon}; use Int8ub to Int64ub, Int24ub or Bytes(n)")


def _fields_of(cls: type[T], length: int) -> tuple[_Field, ...]:
    """The fields of ``cls`` in the order of the wire, none beyond ``length`` bytes and no two on the same byte."""
    fields: list[_Field] = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        places = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, At)]
        if len(places) != 1:
            raise UsageError(f"{cls.__name__}.{name}: give the field one At(offset, subcon), not {len(places)}")
        fields.append(_field(name, places[0]))
    fields.sort(key=lambda field: field.offset)
    end = 0
    for field in fields:
        if field.offset < end or field.offset + field.size > length:
            raise UsageError(
                f"{cls.__name__}.{field.name}: bytes {field.offset} to {field.offset + field.size - 1} overlap the "
                f"field before, or lie beyond the {length} bytes of the format"
            )
        end = field.offset + field.size
    return tuple(fields)


def construct_of(cls: type[T], length: int = 48) -> Struct:
    """The construct ``Struct`` of ``cls``: ``length`` bytes (48 for a BHS), the reserved ones as ``Padding``.

    Raises :class:`UsageError` where the declaration makes no sense.
    """
    subcons: list[Construct] = []
    end = 0
    for field in _fields_of(cls, length):
        if field.offset > end:
            subcons.append(Padding(field.offset - end))
        subcons.append(field.name / field.subcon)
        end = field.offset + field.size
    if length > end:
        subcons.append(Padding(length - end))
    return Struct(*subcons)


def _struct_of(fields: tuple[_Field, ...], length: int) -> struct.Struct:
    codes, end = [">"], 0
    for field in fields:
        codes.append(f"{field.offset - end}x{field.code}")
        end = field.offset + field.size
    return struct.Struct("".join(codes) + f"{length - end}x")


_TEMPLATE: Final = """\
def parse(buffer, offset=0):
    try:
        {raws}, = unpack_from(buffer, offset)
    except StructError:
        raise too_short(buffer, offset) from None
    return new(cls, ({merged},))

def build(value):
    {names}, = value
    try:
        {lengths}
        return pack({split})
    except (StructError, TypeError) as error:
        raise misfit(value, error) from error

def build_into(buffer, offset, value):
    {names}, = value
    try:
        {lengths}
        pack_into(buffer, offset, {split})
    except (StructError, TypeError) as error:
        raise misfit(value, error) from error
"""


def _source_of(cls: type[T], fields: tuple[_Field, ...]) -> str:
    """The source of ``parse``, ``build`` and ``build_into``; ``cls._fields`` order may differ from the wire's."""
    by_name = {field.name: field for field in fields}
    names = tuple(by_name[name] for name in get_type_hints(cls))
    # struct pads a short byte string and cuts a long one, both in silence.
    unequal = [f"len(f_{field.name}) != {field.size}" for field in fields if isinstance(field.subcon, Bytes)]
    return _TEMPLATE.format(
        raws=", ".join(raw for field in fields for raw in field.raws),
        merged=", ".join(field.merged for field in names),
        names=", ".join(f"f_{field.name}" for field in names),
        lengths=f"if {' or '.join(unequal)}: raise TypeError('wrong length')" if unequal else "",
        split=", ".join(field.split for field in fields),
    )


class FastCodec(Generic[T]):
    """The fast codec of ``cls``, ``length`` bytes on the wire (48 for a BHS).

    ``parse(buffer, offset=0) -> T``, ``build(value) -> bytes`` and ``build_into(buffer, offset, value)`` are plain
    functions, generated from the declaration; bind them once where a call counts.  Raises :class:`UsageError` where
    the declaration makes no sense.
    """

    __slots__ = ("build", "build_into", "cls", "length", "parse", "source")

    parse: Parse[T]
    build: Build[T]
    build_into: BuildInto[T]

    def __init__(self, cls: type[T], length: int = 48) -> None:
        fields = _fields_of(cls, length)
        wire = _struct_of(fields, length)
        namespace: dict[str, Any] = {
            "__name__": f"{__name__}.{cls.__name__}",
            "StructError": struct.error,
            "cls": cls,
            "misfit": _misfit_of(cls, fields, length),
            "new": tuple.__new__,
            "pack": wire.pack,
            "pack_into": wire.pack_into,
            "too_short": _too_short_of(cls, length),
            "unpack_from": wire.unpack_from,
        }
        self.cls = cls
        self.length = length
        self.source = _source_of(cls, fields)
        exec(self.source, namespace)  # noqa: S102 - our own text, made from a declaration; a loop would cost 5 us
        self.parse = namespace["parse"]
        self.build = namespace["build"]
        self.build_into = namespace["build_into"]


def _too_short_of(cls: type[T], length: int) -> Callable[[ReadBuffer, int], PduError]:
    def too_short(buffer: ReadBuffer, offset: int) -> PduError:
        left = max(0, memoryview(buffer).nbytes - offset)
        return PduError(f"the peer sent {left} bytes where a {cls.__name__} takes {length}; the message is cut short")

    return too_short


def _misfit_of(cls: type[T], fields: tuple[_Field, ...], length: int) -> Callable[[T, Exception], LocalProtocolError]:
    """What names the field that struct refused: struct itself does not say which."""
    by_name = {field.name: field for field in fields}
    in_order = tuple(by_name[name] for name in get_type_hints(cls))

    def misfit(value: T, error: Exception) -> LocalProtocolError:
        for field, given in zip(in_order, value, strict=True):
            if not field.fits(given):
                return LocalProtocolError(f"{cls.__name__}.{field.name} = {given!r}: give {field.range}")
        return LocalProtocolError(f"{cls.__name__}: its {length} bytes do not fit the buffer: {error}")

    return misfit
