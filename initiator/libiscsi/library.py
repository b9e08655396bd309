"""The system's libiscsi (7 or newer) by cffi, loaded when it is first asked for.

Only what the wrapper calls is declared.  Two structures are looked into: ``struct scsi_iovec``, which never changes,
and ``struct scsi_task``, whose layout :func:`load` proves on a task of its own before it trusts it.
"""

from __future__ import annotations

import ctypes.util
from functools import cache
from importlib import import_module
from typing import Any, Final

from iser.errors import ResourceError

__all__ = [
    "ABORT_TASK",
    "CANCELLED",
    "ERROR",
    "ISER_TRANSPORT",
    "REDIRECTED",
    "RESIDUAL_OVERFLOW",
    "SESSION_NORMAL",
    "XFER_NONE",
    "XFER_READ",
    "XFER_WRITE",
    "Library",
    "load",
]

CANCELLED: Final = 0x0F000000
ERROR: Final = 0x0F000001
REDIRECTED: Final = 0x101
ISER_TRANSPORT: Final = 1
SESSION_NORMAL: Final = 2
ABORT_TASK: Final = 1
RESIDUAL_OVERFLOW: Final = 2
XFER_NONE: Final = 0
XFER_READ: Final = 1
XFER_WRITE: Final = 2

_NAMES: Final = ("libiscsi.so.7", "libiscsi.so.8", "libiscsi.so.9", "libiscsi.so.10", "libiscsi.so.11")
_PROBE_CDB: Final = bytes(range(0x80, 0x8A))
_PROBE_LENGTH: Final = 0x1234

_DECLARATIONS: Final = """
struct iscsi_context;
typedef void (*iscsi_command_cb)(struct iscsi_context *iscsi, int status, void *command_data, void *private_data);

struct scsi_iovec { void *iov_base; size_t iov_len; };
struct scsi_iovector { struct scsi_iovec *iov; int niov; int nalloc; size_t offset; int consumed; };
struct scsi_sense {
    unsigned char error_type; int key; int ascq;
    unsigned char specific; unsigned char bit_pointer; uint16_t field_pointer;
};
struct scsi_data { int size; unsigned char *data; };
struct scsi_task {
    int status; int cdb_size; int xfer_dir; int expxferlen; unsigned char cdb[16];
    int residual_status; size_t residual;
    struct scsi_sense sense; struct scsi_data datain; void *mem;
    void *ptr; uint32_t itt; uint32_t cmdsn; uint32_t lun;
    struct scsi_iovector iovector_in; struct scsi_iovector iovector_out;
};

struct iscsi_context *iscsi_create_context(const char *initiator_name);
int iscsi_destroy_context(struct iscsi_context *iscsi);
int iscsi_init_transport(struct iscsi_context *iscsi, int transport);
int iscsi_set_targetname(struct iscsi_context *iscsi, const char *name);
int iscsi_set_session_type(struct iscsi_context *iscsi, int type);
int iscsi_set_header_digest(struct iscsi_context *iscsi, int digest);
int iscsi_set_immediate_data(struct iscsi_context *iscsi, int immediate_data);
int iscsi_set_initiator_username_pwd(struct iscsi_context *iscsi, const char *user, const char *password);
int iscsi_set_target_username_pwd(struct iscsi_context *iscsi, const char *user, const char *password);
void iscsi_set_noautoreconnect(struct iscsi_context *iscsi, int state);
const char *iscsi_get_error(struct iscsi_context *iscsi);
const char *iscsi_get_target_address(struct iscsi_context *iscsi);
int iscsi_get_fd(struct iscsi_context *iscsi);
int iscsi_which_events(struct iscsi_context *iscsi);
int iscsi_service(struct iscsi_context *iscsi, int revents);
int iscsi_out_queue_length(struct iscsi_context *iscsi);
int iscsi_connect_async(struct iscsi_context *iscsi, const char *portal, iscsi_command_cb cb, void *private_data);
int iscsi_login_async(struct iscsi_context *iscsi, iscsi_command_cb cb, void *private_data);
int iscsi_logout_async(struct iscsi_context *iscsi, iscsi_command_cb cb, void *private_data);
int iscsi_scsi_command_async(struct iscsi_context *iscsi, int lun, struct scsi_task *task, iscsi_command_cb cb,
                             void *data, void *private_data);
int iscsi_scsi_cancel_task(struct iscsi_context *iscsi, struct scsi_task *task);
int iscsi_task_mgmt_async(struct iscsi_context *iscsi, int lun, int function, uint32_t ritt, uint32_t rcmdsn,
                          iscsi_command_cb cb, void *private_data);
struct scsi_task *scsi_create_task(int cdb_size, unsigned char *cdb, int xfer_dir, int expxferlen);
void scsi_free_scsi_task(struct scsi_task *task);
void scsi_task_set_iov_in(struct scsi_task *task, struct scsi_iovec *iov, int niov);
void scsi_task_set_iov_out(struct scsi_task *task, struct scsi_iovec *iov, int niov);
"""


class Library:
    """``ffi`` and ``lib`` as cffi has them; both untyped, as what they declare is C."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi = ffi
        self.lib = lib


@cache
def load() -> Library:
    """The library.  Raises ResourceError, in one sentence with the fix, where it or cffi is missing, or is too new."""
    try:
        cffi = import_module("cffi")  # an extra: only who uses the wrapper has it
    except ImportError:
        raise ResourceError("the libiscsi wrapper needs cffi; install it with pip install 'iser[libiscsi]'") from None
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    library = Library(ffi, _open(ffi))
    _check_layout(library)
    return library


def _open(ffi: Any) -> Any:
    found = ctypes.util.find_library("iscsi")
    for name in (*_NAMES, *filter(None, (found,))):
        try:
            return ffi.dlopen(name)
        except OSError:
            continue
    raise ResourceError("libiscsi is not on this machine; install it, on Debian with apt-get install libiscsi7")


def _check_layout(library: Library) -> None:
    """Every field that is read stands where the declaration says: a task shows what was put in through functions."""
    ffi, lib = library.ffi, library.lib
    cdb = ffi.new("unsigned char[]", _PROBE_CDB)
    task = lib.scsi_create_task(len(_PROBE_CDB), cdb, XFER_WRITE, _PROBE_LENGTH)
    if not task:
        raise ResourceError("libiscsi cannot allocate a task; free some memory")
    ins, outs = ffi.new("struct scsi_iovec[3]"), ffi.new("struct scsi_iovec[5]")
    lib.scsi_task_set_iov_in(task, ins, 3)
    lib.scsi_task_set_iov_out(task, outs, 5)
    good = (
        (task.cdb_size, task.xfer_dir, task.expxferlen) == (len(_PROBE_CDB), XFER_WRITE, _PROBE_LENGTH)
        and bytes(task.cdb)[: len(_PROBE_CDB)] == _PROBE_CDB
        # These stand behind all the others.
        and (task.iovector_in.iov, task.iovector_in.niov) == (ins, 3)
        and (task.iovector_out.iov, task.iovector_out.niov) == (outs, 5)
    )
    lib.scsi_free_scsi_task(task)
    if not good:
        raise ResourceError(
            "this libiscsi has tasks of a layout that the wrapper does not know; use libiscsi 1.18 to 1.20"
        )
