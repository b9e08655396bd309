"""Where a buffer lies in memory."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["address_of"]


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
_c_char_p = ctypes.c_char_p
_c_void_p = ctypes.c_void_p
_addressof = ctypes.addressof


def address_of(view: memoryview) -> int:
    """The address of the first byte of a non-empty ``view``."""
    if not view.readonly:
        return _addressof(_c_char.from_buffer(view))
    owner = view.obj
    if type(owner) is bytes and len(owner) == view.nbytes:
        # All of a bytes object, as most data to be written is: a quarter of what asking for its buffer takes.
        address = _c_void_p.from_buffer(_c_char_p(owner)).value
        assert address
        return address
    exported = _PyBuffer()
    _get_buffer(view, ctypes.byref(exported), 0)
    try:
        return int(exported.buf)
    finally:
        _release_buffer(ctypes.byref(exported))
