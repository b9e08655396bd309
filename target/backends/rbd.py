"""A backend on a RADOS block device of a Ceph cluster, through librbd, in a bounded pool of threads.

The libraries are loaded when the first such backend is opened.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import errno
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from iser.errors import BackendError, UsageError
from target.backends.aligned import AlignedBackend, pieces, targets
from target.backends.base import BackendCap, Extent, check_bounds, merge_extents
from target.backends.crew import Crew

__all__ = ["MAX_REQUEST", "RbdBackend", "RbdName", "parse_rbd"]

#: The most bytes of one call of librbd.
MAX_REQUEST: Final = 8 << 20
#: Calls that run at once.
DEFAULT_THREADS: Final = 16

_URI = re.compile(
    r"rbd:(?P<pool>[^/@:]+)/(?P<image>[^/@:]+)(?:@(?P<snapshot>[^/@:]+))?(?P<options>(?::[a-z_]+=[^:]*)*)"
)
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_DIFF_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)

_P, _N, _U64, _SIZE, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int


class RbdName(NamedTuple):
    """What ``rbd:pool/image@snapshot:id=user:conf=/etc/ceph/ceph.conf`` says; other options go to Ceph as they are."""

    pool: str
    image: str
    snapshot: str | None
    user: str | None
    conf: str | None
    options: dict[str, str]


def parse_rbd(uri: str) -> RbdName:
    """Take an ``rbd:`` name apart.  Raises UsageError."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise UsageError(f"{uri!r} is no image; write 'rbd:POOL/IMAGE', with ':id=USER' or ':conf=FILE' behind it")
    options = dict(option.split("=", 1) for option in match["options"].split(":") if option)
    user, conf = options.pop("id", None), options.pop("conf", None)
    return RbdName(match["pool"], match["image"], match["snapshot"], user, conf, options)


class _Libraries(NamedTuple):
    rados: Any
    rbd: Any


@functools.cache
def _libraries() -> _Libraries:
    """Both libraries, loaded once.  Raises BackendError, in one sentence, when one is missing."""
    try:
        rados = ctypes.CDLL(ctypes.util.find_library("rados") or "librados.so.2")
        rbd = ctypes.CDLL(ctypes.util.find_library("rbd") or "librbd.so.1")
    except OSError as error:
        raise BackendError("an rbd LUN needs librbd; install the package librbd1", medium=False) from error
    _declare(rados, "rados_create", _INT, _P, _N)
    _declare(rados, "rados_conf_read_file", _INT, _P, _N)
    _declare(rados, "rados_conf_set", _INT, _P, _N, _N)
    _declare(rados, "rados_connect", _INT, _P)
    _declare(rados, "rados_ioctx_create", _INT, _P, _N, _P)
    _declare(rados, "rados_ioctx_destroy", None, _P)
    _declare(rados, "rados_shutdown", None, _P)
    for function in ("rbd_open", "rbd_open_read_only"):
        _declare(rbd, function, _INT, _P, _N, _P, _N)
    _declare(rbd, "rbd_close", _INT, _P)
    _declare(rbd, "rbd_get_size", _INT, _P, _P)
    for function in ("rbd_read", "rbd_write"):
        _declare(rbd, function, ctypes.c_ssize_t, _P, _U64, _SIZE, _P)
    _declare(rbd, "rbd_flush", _INT, _P)
    _declare(rbd, "rbd_resize", _INT, _P, _U64)
    _declare(rbd, "rbd_write_zeroes", ctypes.c_ssize_t, _P, _U64, _SIZE, _INT, _INT)
    _declare(rbd, "rbd_diff_iterate2", _INT, _P, _N, _U64, _U64, ctypes.c_uint8, ctypes.c_uint8, _DIFF_FUNCTION, _P)
    return _Libraries(rados, rbd)


def _declare(library: Any, function: str, result: Any, *arguments: Any) -> None:
    bound = getattr(library, function)
    bound.restype, bound.argtypes = result, arguments


class RbdBackend(AlignedBackend):
    """The image that ``uri`` names, in full or its first ``size`` bytes.

    Opening blocks for as long as the cluster takes; do it at start-up.  Raises UsageError for what does not fit
    together, BackendError when librbd is missing or the cluster refuses.
    """

    __slots__ = ("_closed", "_cluster", "_crew", "_image", "_ioctx", "_rados", "_rbd")

    def __init__(
        self,
        uri: str,
        size: int | None = None,
        *,
        block_size: int = 512,
        read_only: bool = False,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        name = parse_rbd(uri)
        self.name = uri
        self.block_size = block_size
        self.read_only = read_only
        self.sector = 1
        if name.snapshot and not read_only:
            raise UsageError(f"{uri} is a snapshot; set read_only = true")
        self._rados, self._rbd = _libraries()
        self._cluster, self._ioctx, self._image = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._connect(name)
            self.blocks = self._usable(size) // block_size
        except BaseException:
            self._release()
            raise
        self.capabilities = BackendCap.WRITE_CACHE | BackendCap.DISCARD | BackendCap.RESIZE
        self._crew = Crew(threads, "rbd")
        self._closed = False

    def _connect(self, name: RbdName) -> None:
        rados, rbd = self._rados, self._rbd
        user = name.user.encode() if name.user else None
        self._check(rados.rados_create(ctypes.byref(self._cluster), user), "cannot start")
        conf = name.conf.encode() if name.conf else None
        self._check(rados.rados_conf_read_file(self._cluster, conf), f"cannot read {name.conf or 'ceph.conf'}")
        for option, value in name.options.items():
            self._check(rados.rados_conf_set(self._cluster, option.encode(), value.encode()), f"no option {option}")
        self._check(rados.rados_connect(self._cluster), "the cluster cannot be reached")
        found = rados.rados_ioctx_create(self._cluster, name.pool.encode(), ctypes.byref(self._ioctx))
        self._check(found, f"no pool {name.pool}")
        opening = rbd.rbd_open_read_only if self.read_only else rbd.rbd_open
        snapshot = name.snapshot.encode() if name.snapshot else None
        self._check(opening(self._ioctx, name.image.encode(), ctypes.byref(self._image), snapshot), "cannot be opened")

    def _usable(self, size: int | None) -> int:
        found = self._size()
        if size is not None and size > found:
            raise UsageError(f"{self.name} has {found} bytes, less than the size {size}; lower the size")
        if (size if size is not None else found) < self.block_size:
            raise UsageError(f"{self.name} is smaller than one block of {self.block_size} bytes")
        return found if size is None else size

    def _size(self) -> int:
        found = ctypes.c_uint64()
        self._check(self._rbd.rbd_get_size(self._image, ctypes.byref(found)), "has no size")
        return found.value

    def _check(self, result: int, what: str, offset: int | None = None) -> int:
        """Raise BackendError for a negative result."""
        if result < 0:
            full, medium = -result in _FULL, -result in (*_FULL, errno.EIO)
            text = f"{self.name}: {what}: {os.strerror(-result)}"
            raise BackendError(text, medium=medium, space=full, offset=offset)
        return result

    async def _read(self, offset: int, buffers: Sequence[memoryview]) -> None:
        await self._all(self._read_run, targets(offset, buffers, MAX_REQUEST))

    def _read_run(self, offset: int, run: memoryview) -> None:
        memory = (ctypes.c_char * len(run)).from_buffer(run)
        done = self._check(self._rbd.rbd_read(self._image, offset, len(run), memory), "read", offset)
        if done != len(run):
            raise BackendError(f"{self.name} ends at byte {offset + done}: who cut it?", offset=offset + done)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        await self._all(self._write_run, pieces(offset, buffers, MAX_REQUEST))
        if fua:
            await self.flush()

    def _write_run(self, offset: int, run: memoryview) -> None:
        kind = ctypes.c_char * len(run)
        memory = kind.from_buffer_copy(run) if run.readonly else kind.from_buffer(run)
        self._check(self._rbd.rbd_write(self._image, offset, len(run), memory), "write", offset)

    async def flush(self) -> None:
        """See :meth:`Backend.flush`."""
        if not self.read_only:
            await self._crew.run(lambda: self._check(self._rbd.rbd_flush(self._image), "flush"))

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`: zeros are written, which gives whole objects back."""
        check_bounds(self, offset, length, write=True)
        hold = await self.ranges.acquire(offset, offset + length, exclusive=False)
        try:
            zero = self._rbd.rbd_write_zeroes
            await self._crew.run(lambda: self._check(zero(self._image, offset, length, 0, 0), "write zeroes"))
        finally:
            self.ranges.release(hold)

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`: by objects, as the cluster has them."""
        check_bounds(self, offset, length)
        found: list[Extent] = await self._crew.run(lambda: self._find_extents(offset, length))
        return found[:limit]

    def _find_extents(self, offset: int, length: int) -> list[Extent]:
        extents: list[Extent] = []
        at = offset

        def found(start: int, size: int, exists: int, _argument: int) -> int:
            nonlocal at
            first, last = start - start % self.block_size, start + size + -(start + size) % self.block_size
            if exists:
                merge_extents(extents, max(first, at) - at, False)
                merge_extents(extents, last - max(first, at), True)
                at = last
            return 0

        callback = _DIFF_FUNCTION(found)
        self._check(self._rbd.rbd_diff_iterate2(self._image, None, offset, length, 1, 1, callback, None), "diff")
        merge_extents(extents, max(offset + length - at, 0), False)
        return extents

    async def resize(self, size: int | None) -> None:
        """See :meth:`Backend.resize`."""
        if size is not None:
            if size <= 0 or size % self.block_size:
                raise UsageError(f"{self.name}: size {size} is not a positive multiple of the block size")
            await self._crew.run(lambda: self._check(self._rbd.rbd_resize(self._image, size), "resize"))
        self.blocks = await self._crew.run(self._size) // self.block_size

    async def close(self) -> None:
        """See :meth:`Backend.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.flush()
        finally:
            await asyncio.to_thread(self._crew.shutdown)
            await asyncio.to_thread(self._release)

    def _release(self) -> None:
        if self._image:
            self._rbd.rbd_close(self._image)
        if self._ioctx:
            self._rados.rados_ioctx_destroy(self._ioctx)
        if self._cluster:
            self._rados.rados_shutdown(self._cluster)
        self._image, self._ioctx, self._cluster = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()

    async def _all(self, work: Callable[[int, memoryview], None], runs: list[tuple[int, memoryview]]) -> None:
        """Do ``work`` for each run, side by side; when it ends, in whatever way, none is under way any more."""
        results = await asyncio.gather(
            *(self._crew.run(functools.partial(work, offset, run)) for offset, run in runs), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
