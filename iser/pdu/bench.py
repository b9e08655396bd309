"""What one BHS costs to parse and to build, per PDU of the I/O path: ``python -m iser.pdu.bench``.

Prints nanoseconds, the best of several runs: ``fast`` is the generated function, ``codec`` the same behind the opcode
dispatch that the datamovers call, ``construct`` the clear form.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from timeit import repeat
from typing import Any, Final

from iser.pdu.bhs import (
    BHS_LENGTH,
    R2T,
    DataIn,
    DataOut,
    NopIn,
    NopOut,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
)
from iser.pdu.codec import CODECS, decode_bhs, encode_bhs
from iser.pdu.layout import construct_of

__all__ = ["HOT", "main", "nanoseconds"]

HOT: Final = (
    ScsiCommand,
    ScsiResponse,
    DataIn,
    DataOut,
    R2T,
    NopOut,
    NopIn,
    TaskManagementRequest,
    TaskManagementResponse,
)
RUNS: Final = 5
CONSTRUCT_SHARE: Final = 50  # construct is that much slower, and so is run that much less often


def nanoseconds(function: Callable[[Any], object], argument: object, calls: int) -> float:
    """The cost of ``function(argument)`` in nanoseconds: the best of several runs of ``calls`` calls."""
    statement = "function(argument)"
    names = {"function": function, "argument": argument}
    return min(repeat(statement, globals=names, number=calls, repeat=RUNS)) / calls * 1e9


def _row(cls: type[Any], calls: int) -> tuple[float, ...]:
    fast, clear, few = CODECS[cls], construct_of(cls, BHS_LENGTH), max(1, calls // CONSTRUCT_SHARE)
    value = cls()
    wire, fields = fast.build(value), value._asdict()
    return (
        nanoseconds(fast.parse, wire, calls),
        nanoseconds(decode_bhs, wire, calls),
        nanoseconds(clear.parse, wire, few),
        nanoseconds(fast.build, value, calls),
        nanoseconds(encode_bhs, value, calls),
        nanoseconds(clear.build, fields, few),
    )


def main(calls: int = 100_000) -> None:
    """Prints one line per hot PDU to standard output; ``calls`` per run."""
    write = sys.stdout.write
    write(f"{'ns per BHS':24}{'parse: fast':>12}{'codec':>9}{'construct':>11}")
    write(f"{'build: fast':>14}{'codec':>9}{'construct':>11}\n")
    for cls in HOT:
        parse, decode, parse_clear, build, encode, build_clear = _row(cls, calls)
        write(f"{cls.__name__:24}{parse:12.0f}{decode:9.0f}{parse_clear:11.0f}")
        write(f"{build:14.0f}{encode:9.0f}{build_clear:11.0f}\n")


if __name__ == "__main__":
    main()
