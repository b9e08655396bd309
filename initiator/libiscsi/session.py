"""A session that libiscsi holds, driven by its event interface on asyncio.

libiscsi is called from the event loop only.  What it is given by address (tasks, vectors of buffers, the memory they
name) lives until it cannot use it any more: until a command's callback came, or its context was destroyed.  A command
that is given up is aborted at the target first, and dropped from libiscsi only when nothing of it waits to be sent.
"""

from __future__ import annotations

import asyncio
import logging
import select
from typing import Any, Final

from initiator.credentials import chap_users
from initiator.establish import MAX_REDIRECTS
from initiator.libiscsi.library import (
    ABORT_TASK,
    CANCELLED,
    ISER_TRANSPORT,
    REDIRECTED,
    RESIDUAL_OVERFLOW,
    SESSION_NORMAL,
    XFER_NONE,
    XFER_READ,
    XFER_WRITE,
    Library,
    load,
)
from initiator.options import ConnectOptions, default_initiator_name
from initiator.task import ScsiResult
from initiator.url import Portal
from iser.errors import CommandError, CommandTimeout, ConnectionFailed, ConnectionLost, TextError, UsageError
from iser.login import TargetAddress
from iser.login.chap import check_user
from iser.sg import SgList

__all__ = ["ABORT_TIMEOUT", "LibiscsiSession"]

ABORT_TIMEOUT: Final = 15.0  # seconds for an abort; after that the connection is dropped
LOGOUT_TIMEOUT: Final = 5.0
_TICK: Final = 1.0  # seconds between two looks of libiscsi at what has no file descriptor
_DRAIN: Final = 0.01
_CLOSED: Final = "the session was closed"
_MAX_CDB: Final = 16
_STATUS: Final = 0xFF
_DIGEST_NONE, _DIGEST_CRC32C = 0, 3
_CHAP_ALGORITHMS: Final = {"", "md5"}

log = logging.getLogger("iser.libiscsi")


class _Call:
    """Something that libiscsi will call back about: a future, and what must stay alive until then."""

    __slots__ = ("future", "given_up", "handle", "keep", "task", "view")

    def __init__(self, future: asyncio.Future[ScsiResult]) -> None:
        self.future = future
        self.given_up = False
        self.handle: Any = None
        self.task: Any = None
        self.keep: list[Any] = []
        self.view: SgList | None = None


class LibiscsiSession:
    """One session on one connection.  Made by :meth:`connect`; the part of our own Session that a Lun needs."""

    def __init__(self, library: Library, context: Any, portal: Portal, options: ConnectOptions) -> None:
        self.name = str(portal)
        self.portal = portal
        self.timeout = options.timeout
        self._library = library
        self._context: Any = context
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(options.queue_depth)
        self._calls: set[_Call] = set()
        self._ended: str | None = None
        self._elsewhere: str | None = None  # where the target wants us to log in
        self._watched: tuple[int, int] = (-1, 0)
        self._ticker: asyncio.TimerHandle | None = None
        self._serving = False
        self._closing = False
        self._flushing = False
        self._callback = library.ffi.callback("iscsi_command_cb", self._called, onerror=self._stumbled)

    @classmethod
    async def connect(cls, portal: Portal, target: str, options: ConnectOptions) -> LibiscsiSession:
        """Connect and log in, within ``options.login_timeout``, wherever the target sends us.

        Raises ResourceError without libiscsi, UsageError, ConnectionFailed with libiscsi's words.
        """
        _check_options(options)
        library = load()
        try:
            async with asyncio.timeout(options.login_timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    self = cls(library, _make_context(library, portal, target, options), portal, options)
                    elsewhere = await self._log_in()
                    if elsewhere is None:
                        return self
                    portal = elsewhere
        except TimeoutError:
            raise ConnectionFailed(
                f"{portal} did not complete the login within {options.login_timeout:g} seconds"
            ) from None
        raise ConnectionFailed(f"the target redirected the login more than {MAX_REDIRECTS} times, last to {portal}")

    async def _log_in(self) -> Portal | None:
        """Connect and log in; returns where to do so instead, if the target says that.  Ends the session if not."""
        lib, where = self._library.lib, self._library.ffi.new("char[]", self.name.encode())
        try:
            await self._ask(lambda handle: lib.iscsi_connect_async(self._context, where, self._callback, handle))
            await self._ask(lambda handle: lib.iscsi_login_async(self._context, self._callback, handle))
        except (CommandError, ConnectionLost) as error:
            self._end(str(error))
            if self._elsewhere is None:
                raise ConnectionFailed(f"{self.name}: {error}") from None
            try:
                address = TargetAddress.parse(self._elsewhere)
            except TextError as wrong:
                raise ConnectionFailed(f"{self.name} redirected the login: {wrong}") from None
            return Portal(address.host, address.port, self.portal.transport)
        except BaseException:
            self._end("the login was given up")
            raise
        return None

    @property
    def ended(self) -> str | None:
        """Why the session takes no more commands; None while it does."""
        return self._ended

    @property
    def outstanding(self) -> int:
        """Commands, and other requests, that libiscsi has not called back about."""
        return len(self._calls)

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_in: SgList | None = None,
        data_out: SgList | None = None,
        timeout: float | None = None,
    ) -> ScsiResult:
        """Carry out one SCSI command, as :meth:`initiator.commands.Commands.execute` does.

        The lists go to libiscsi as they are, without a copy.  Raises CommandTimeout, ConnectionLost, CommandError,
        UsageError.
        """
        if len(cdb) > _MAX_CDB:
            raise UsageError(f"a CDB of {len(cdb)} bytes; libiscsi has room for {_MAX_CDB}")
        if data_in is not None and data_in.length and data_out is not None and data_out.length:
            raise UsageError("a command moves data in or out; pass data_in or data_out, not both")
        limit = self.timeout if timeout is None else timeout
        call: _Call | None = None
        try:
            async with asyncio.timeout(limit):
                async with self._room:
                    call = self._start(lun, cdb, data_in, data_out)
                    # The future outlives a cancelled wait: the memory is libiscsi's until it is done.
                    return await asyncio.shield(call.future)
        except TimeoutError:
            await self._withdraw(call)
            raise CommandTimeout(f"no answer within {limit:g} seconds; the command was aborted") from None
        except asyncio.CancelledError:
            await self._withdraw(call)
            raise

    async def close(self) -> None:
        """Log out, disconnect and free everything; commands on their way fail with ConnectionLost.  Idempotent."""
        if self._ended is None:
            self._closing = True
            try:
                async with asyncio.timeout(LOGOUT_TIMEOUT):
                    await self._ask(
                        lambda handle: self._library.lib.iscsi_logout_async(self._context, self._callback, handle)
                    )
            except (TimeoutError, CommandError, ConnectionLost) as error:
                log.info("%s: logout: %s", self.name, error)
            finally:
                self._end(_CLOSED)

    # Calls into libiscsi

    def _new_call(self) -> _Call:
        if self._ended is not None:
            raise ConnectionLost(self._ended)
        call = _Call(self._loop.create_future())
        call.handle = self._library.ffi.new_handle(call)
        self._calls.add(call)
        return call

    async def _ask(self, start: Any) -> None:
        """A request without data."""
        call = self._new_call()
        if start(call.handle):
            self._calls.discard(call)
            raise CommandError(self._error())
        self._watch()
        await asyncio.shield(call.future)

    def _start(self, lun: int, cdb: bytes, data_in: SgList | None, data_out: SgList | None) -> _Call:
        ffi, lib = self._library.ffi, self._library.lib
        call = self._new_call()
        sg, direction = data_in, XFER_READ
        if sg is None or not sg.length:
            sg, direction = data_out, XFER_WRITE
        if sg is None or not sg.length:
            sg, direction = None, XFER_NONE
        code = ffi.new("unsigned char[]", cdb)
        call.task = task = lib.scsi_create_task(len(cdb), code, direction, sg.length if sg else 0)
        if not task:
            self._calls.discard(call)
            raise CommandError("libiscsi cannot allocate a task; free some memory")
        if sg:
            call.view = sg
            vector = ffi.new("struct scsi_iovec[]", len(sg))
            call.keep.append(vector)
            for slot, address, length in zip(vector, sg.addresses, sg.lengths, strict=True):
                slot.iov_base, slot.iov_len = ffi.cast("void *", address), length
            (lib.scsi_task_set_iov_in if direction == XFER_READ else lib.scsi_task_set_iov_out)(task, vector, len(sg))
        if lib.iscsi_scsi_command_async(self._context, lun >> 48, task, self._callback, ffi.NULL, call.handle):
            self._free(call)
            raise CommandError(f"libiscsi does not take the command: {self._error()}")
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return call

    async def _withdraw(self, call: _Call | None) -> None:
        """Have the target abort a command; on return nobody uses its memory."""
        if call is None or call.future.done():
            return
        job = self._loop.create_task(self._abort(call))
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait((job,))
            raise

    async def _abort(self, call: _Call) -> None:
        lib = self._library.lib
        task = call.task
        if call.future.done():
            return  # it ended before this ran, and its task is freed
        try:
            async with asyncio.timeout(ABORT_TIMEOUT):
                await self._ask(
                    lambda handle: lib.iscsi_task_mgmt_async(
                        self._context, task.lun, ABORT_TASK, task.itt, task.cmdsn, self._callback, handle
                    )
                )
                # Data-Outs of the task that wait to be sent refer to it.
                while self._ended is None and lib.iscsi_out_queue_length(self._context):  # noqa: ASYNC110 - announced by nobody
                    await asyncio.sleep(_DRAIN)
        except (TimeoutError, CommandError, ConnectionLost) as error:
            self._end(f"a command could not be aborted: {error or 'no answer'}")
            return
        if self._ended is None and not call.future.done():
            call.given_up = True
            lib.iscsi_scsi_cancel_task(self._context, task)  # calls back
        if not call.future.done():
            self._end("libiscsi does not let go of an aborted command")

    # Calls from libiscsi

    def _called(self, context: Any, status: int, data: Any, private: Any) -> None:
        del context, data
        call = self._library.ffi.from_handle(private)
        if call not in self._calls:
            return  # the second call of a connection, at its end: iscsi_service tells, too
        result: ScsiResult | None = None
        error: Exception | None = None
        if status == CANCELLED:
            why = self._ended or f"the connection was lost: {self._error()}"
            error = ConnectionLost(why)
            if self._ended is None and not call.given_up:
                # libiscsi has given up the connection and would wait for us to have it made anew.
                self._loop.call_soon(self._end, why)
        elif status & ~_STATUS:
            error = CommandError(self._error())
            if status == REDIRECTED:
                self._elsewhere = self._text(self._library.lib.iscsi_get_target_address(self._context))
        elif call.task:
            result = self._result(status, call.task)
        self._free(call)
        if call.future.done():
            return
        if error is not None:
            call.future.set_exception(error)
            call.future.exception()  # whoever waited may have gone
        else:
            call.future.set_result(result or ScsiResult(status))

    def _result(self, status: int, task: Any) -> ScsiResult:
        sense = b""
        if status and task.datain.data and task.datain.size > 2:
            raw = bytes(self._library.ffi.buffer(task.datain.data, task.datain.size))
            sense = raw[2 : 2 + int.from_bytes(raw[:2], "big")]
        if not task.residual_status or status:
            return ScsiResult(status, sense)
        return ScsiResult(status, sense, task.residual, task.residual_status == RESIDUAL_OVERFLOW)

    def _free(self, call: _Call) -> None:
        """libiscsi is done with a call."""
        self._calls.discard(call)
        if call.task:
            self._library.lib.scsi_free_scsi_task(call.task)
            call.task = None
        call.keep.clear()
        call.view = None

    def _stumbled(self, kind: Any, error: Any, trace: Any) -> None:
        """A fault of ours in a callback must not go into C."""
        log.error("%s: internal error in a callback", self.name, exc_info=(kind, error, trace))

    def _error(self) -> str:
        return self._text(self._library.lib.iscsi_get_error(self._context)) or "libiscsi gives no reason"

    def _text(self, words: Any) -> str:
        return str(self._library.ffi.string(words).decode(errors="replace")).strip()

    # Events

    def _watch(self) -> None:
        """Have the loop watch what libiscsi waits for now."""
        lib = self._library.lib
        wanted = (lib.iscsi_get_fd(self._context), lib.iscsi_which_events(self._context))
        if wanted != self._watched:
            self._unwatch()
            fd, events = self._watched = wanted
            if fd >= 0 and events & select.POLLIN:
                self._loop.add_reader(fd, self._service, select.POLLIN)
            if fd >= 0 and events & select.POLLOUT:
                self._loop.add_writer(fd, self._service, select.POLLOUT)
        if self._ticker is None:
            self._ticker = self._loop.call_later(_TICK, self._tick)

    def _flush(self) -> None:
        """Send what this turn of the loop has queued, in one go."""
        self._flushing = False
        if self._context is not None and self._library.lib.iscsi_which_events(self._context) & select.POLLOUT:
            self._service(select.POLLOUT)

    def _unwatch(self) -> None:
        fd, _ = self._watched
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        self._watched = (-1, 0)

    def _tick(self) -> None:
        self._ticker = None
        self._service(0)

    def _service(self, events: int) -> None:
        if self._context is None:
            return
        self._serving = True
        try:
            code = self._library.lib.iscsi_service(self._context, events)
        finally:
            self._serving = False
        if code:
            self._end(_CLOSED if self._closing else f"the connection was lost: {self._error()}")
        elif self._ended is None:
            self._watch()

    def _end(self, why: str) -> None:
        """Destroy the context; every call that is open ends with ConnectionLost.  Idempotent."""
        if self._serving:
            self._loop.call_soon(self._end, why)
            return
        self._ended = self._ended or why
        context, self._context = self._context, None
        if context is None:
            return
        self._unwatch()
        if self._ticker is not None:
            self._ticker.cancel()
        self._library.lib.iscsi_destroy_context(context)
        for call in list(self._calls):  # what libiscsi does not call back about at the end
            self._free(call)
            if not call.future.done():
                call.future.set_exception(ConnectionLost(self._ended))
                call.future.exception()


def _make_context(library: Library, portal: Portal, target: str, options: ConnectOptions) -> Any:
    lib = library.lib
    context = lib.iscsi_create_context((options.initiator_name or default_initiator_name()).encode())
    if not context:
        raise ConnectionFailed("libiscsi cannot make a context; free some memory")
    try:
        if portal.transport == "iser" and lib.iscsi_init_transport(context, ISER_TRANSPORT):
            raise ConnectionFailed("this libiscsi cannot do iSER, or there is no RDMA here; use an iscsi:// URL")
        lib.iscsi_set_targetname(context, target.encode())
        lib.iscsi_set_session_type(context, SESSION_NORMAL)
        lib.iscsi_set_header_digest(context, _DIGEST_CRC32C if options.header_digest else _DIGEST_NONE)
        lib.iscsi_set_immediate_data(context, int(options.immediate_data))
        lib.iscsi_set_noautoreconnect(context, 1)
        _set_users(lib, context, options)
    except BaseException:
        lib.iscsi_destroy_context(context)
        raise
    return context


def _set_users(lib: Any, context: Any, options: ConnectOptions) -> None:
    users = chap_users(options)
    if users is None:
        return
    user, target = users
    check_user(user, target)
    lib.iscsi_set_initiator_username_pwd(context, user.name.encode(), user.secret.reveal())
    if target is not None:
        lib.iscsi_set_target_username_pwd(context, target.name.encode(), target.secret.reveal())


def _check_options(options: ConnectOptions) -> None:
    """What protects data or secrets is never left out in silence.  Raises UsageError."""
    if options.data_digest:
        raise UsageError("libiscsi has no data digests; leave data_digest out, or use initiator.connect")
    if options.chap.strip().lower() not in _CHAP_ALGORITHMS:
        raise UsageError(f"libiscsi proves who we are by MD5, not by {options.chap!r}; use initiator.connect")
