"""Text of login and text PDUs (RFC 7143 section 6.1): ``key=value`` pairs, and their spread over PDUs (the C bit)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from typing import Final

from iser.errors import LocalProtocolError, TextError

__all__ = [
    "IRRELEVANT",
    "MAX_KEY_LENGTH",
    "MAX_LARGE_VALUE_LENGTH",
    "MAX_PAIRS",
    "MAX_TEXT_LENGTH",
    "MAX_TEXT_PDUS",
    "MAX_VALUE_LENGTH",
    "NONE",
    "NOT_UNDERSTOOD",
    "REJECT",
    "RESERVED_VALUES",
    "Pair",
    "TextAssembler",
    "decode_binary",
    "decode_number",
    "decode_text",
    "encode_binary",
    "encode_text",
    "split_text",
]

MAX_KEY_LENGTH: Final = 63  # bytes of a key name
MAX_VALUE_LENGTH: Final = 255  # bytes of a simple value
MAX_LARGE_VALUE_LENGTH: Final = 8192  # bytes of a list or of a large binary value
MAX_TEXT_LENGTH: Final = 64 * 1024  # bytes of one text, over all its PDUs
MAX_TEXT_PDUS: Final = 256  # PDUs of one text: a peer could send empty ones for ever
MAX_PAIRS: Final = 2048  # pairs of one text
_MAX_NUMBER_LENGTH: Final = 24  # characters: 2**64 has 20 digits

NONE: Final = "None"
REJECT: Final = "Reject"
IRRELEVANT: Final = "Irrelevant"
NOT_UNDERSTOOD: Final = "NotUnderstood"
RESERVED_VALUES: Final = frozenset({REJECT, IRRELEVANT, NOT_UNDERSTOOD})  # answers that settle no value

Pair = tuple[str, str]

# Section 6.1 asks for a capital first, and then come iSCSIProtocolLevel and iSERHelloRequired.
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9.+@_#-]{0,62}")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")


def encode_text(pairs: Iterable[Pair]) -> bytes:
    """The bytes of ``pairs``, each ended by a NUL; :class:`LocalProtocolError` for a pair that has no encoding."""
    return b"".join(_encode_pair(name, value) for name, value in pairs)


def _encode_pair(name: str, value: str) -> bytes:
    if not _KEY.fullmatch(name):
        raise LocalProtocolError(f"{name!r} is no key name; use up to {MAX_KEY_LENGTH} letters, digits and .-+@_")
    encoded = value.encode()
    if b"\0" in encoded or len(encoded) > MAX_LARGE_VALUE_LENGTH:
        raise LocalProtocolError(f"the value of {name} must be at most {MAX_LARGE_VALUE_LENGTH} bytes without NUL")
    return b"%b=%b\0" % (name.encode(), encoded)


def decode_text(
    data: bytes | memoryview,
    *,
    unique: bool = True,
    max_value_length: int = MAX_LARGE_VALUE_LENGTH,
    max_pairs: int = MAX_PAIRS,
) -> list[Pair]:
    """The pairs in ``data``, a whole text.

    Delimiters that enclose nothing are passed over: some peers pad with NUL inside the data segment.  ``unique``
    refuses a key that stands twice, which only SendTargets answers may have.  Raises :class:`TextError`.
    """
    raw = bytes(data)
    if raw and raw[-1]:
        raise TextError("the peer sent a text that does not end in a NUL")
    pairs = [_decode_pair(item, max_value_length) for item in raw.split(b"\0") if item]
    if len(pairs) > max_pairs:
        raise TextError(f"the peer sent {len(pairs)} keys in one text; at most {max_pairs} are allowed")
    if unique and len({name for name, _ in pairs}) != len(pairs):
        raise TextError("the peer sent a key twice in one text")
    return pairs


def _decode_pair(item: bytes, max_value_length: int) -> Pair:
    name, equals, value = item.partition(b"=")
    if not equals:
        raise TextError(f"the peer sent text without '=': {item[:MAX_KEY_LENGTH]!r}")
    if len(value) > max_value_length:
        raise TextError(f"the peer sent a value of {len(value)} bytes; at most {max_value_length} are allowed")
    try:
        key, text = name.decode("ascii"), value.decode()
    except UnicodeDecodeError:
        raise TextError(f"the peer sent text that is not UTF-8 in {name[:MAX_KEY_LENGTH]!r}") from None
    if not _KEY.fullmatch(key):
        raise TextError(f"the peer sent {key[: MAX_KEY_LENGTH + 1]!r} for a key name")
    return key, text


def decode_number(text: str) -> int:
    """A numerical value, decimal or ``0x`` hexadecimal, below 2**64 (section 6.1); :class:`TextError` otherwise."""
    if len(text) > _MAX_NUMBER_LENGTH or not _NUMBER.fullmatch(text):
        raise TextError(f"{text[:_MAX_NUMBER_LENGTH]!r} is not a number")
    number = int(text, 16) if text[1:2] in {"x", "X"} else int(text)
    if number >= 1 << 64:
        raise TextError(f"{text} is not below 2**64")
    return number


def encode_binary(value: bytes, *, base64: bool = False) -> str:
    """A binary value, as ``0x`` hexadecimal or as ``0b`` base64."""
    return "0b" + b64encode(value).decode() if base64 else "0x" + value.hex()


def decode_binary(text: str, max_length: int = MAX_LARGE_VALUE_LENGTH) -> bytes:
    """A binary value of at most ``max_length`` bytes, from hexadecimal or base64; :class:`TextError` otherwise."""
    prefix, digits = text[:2].lower(), text[2:]
    try:
        if prefix == "0x":
            value = bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0")) if digits.isalnum() else b""
        elif prefix == "0b":
            value = b64decode(digits, validate=True)
        else:
            raise TextError("the peer sent a binary value without 0x or 0b")
    except (ValueError, Base64Error):
        raise TextError("the peer sent a malformed binary value") from None
    if not 0 < len(value) <= max_length:
        raise TextError(f"the peer sent a binary value of {len(value)} bytes; 1 to {max_length} are allowed")
    return value


def split_text(data: bytes, max_data: int) -> Sequence[bytes]:
    """``data`` as the data segments of successive PDUs of at most ``max_data`` bytes; at least one, which may be empty.

    All but the last travel with the C bit.  A split may fall inside a pair (section 6.2).
    """
    return [data[i : i + max_data] for i in range(0, len(data), max_data)] or [b""]


class TextAssembler:
    """Collects one text that comes in several PDUs; it can be used again after each whole text.

    ``max_length`` is the longest text to accept, in bytes.
    """

    __slots__ = ("_chunks", "_length", "_max_length")

    def __init__(self, max_length: int = MAX_TEXT_LENGTH) -> None:
        self._max_length = max_length
        self._chunks: list[bytes] = []
        self._length = 0

    @property
    def partial(self) -> bool:
        """Whether a text has begun and not ended."""
        return bool(self._chunks)

    def add(self, data: bytes | memoryview, more: bool) -> bytes | None:
        """Take one data segment; ``more`` is its C bit.  The whole text, or None while more is to come.

        Raises :class:`TextError` beyond ``max_length`` bytes and beyond :data:`MAX_TEXT_PDUS`; what was collected is
        dropped then.
        """
        self._chunks.append(bytes(data))
        self._length += len(data)
        if self._length > self._max_length or len(self._chunks) > MAX_TEXT_PDUS:
            self.clear()
            raise TextError(f"the peer sent a text beyond {self._max_length} bytes or {MAX_TEXT_PDUS} PDUs")
        if more:
            return None
        text = b"".join(self._chunks)
        self.clear()
        return text

    def clear(self) -> None:
        """Forget what was collected."""
        self._chunks.clear()
        self._length = 0
