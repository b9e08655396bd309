"""Loading pyverbs, which is a distribution's package and not always there."""

from __future__ import annotations

import importlib
import logging
import os
import resource
from errno import EACCES, ENODEV, ENOENT, ENOMEM, EPERM
from functools import cache
from typing import Any, Final

from iser.errors import IserError, ResourceError

__all__ = ["Pyverbs", "device_error", "event_descriptors", "load_pyverbs", "memlock_error", "memlock_limit"]

_EVENT_LINK: Final = "anon_inode:[infinibandevent]"


class Pyverbs:
    """The classes of pyverbs that are used here; they have no type information."""

    def __init__(self) -> None:
        device, pd, cq = _module("device"), _module("pd"), _module("cq")
        mr, qp, wr, addr, error = _module("mr"), _module("qp"), _module("wr"), _module("addr"), _module("pyverbs_error")
        self.Context: Any = device.Context
        self.get_device_list: Any = device.get_device_list
        self.PD: Any = pd.PD
        self.CompChannel: Any = cq.CompChannel
        self.CQ: Any = cq.CQ
        self.MR: Any = mr.MR
        self.QP: Any = qp.QP
        self.QPAttr: Any = qp.QPAttr
        self.QPCap: Any = qp.QPCap
        self.QPInitAttr: Any = qp.QPInitAttr
        self.QPInitAttrEx: Any = qp.QPInitAttrEx
        self.QPEx: Any = qp.QPEx
        self.SGE: Any = wr.SGE
        self.SendWR: Any = wr.SendWR
        self.RecvWR: Any = wr.RecvWR
        self.AHAttr: Any = addr.AHAttr
        self.GlobalRoute: Any = addr.GlobalRoute
        self.GID: Any = addr.GID
        self.Error: type[Exception] = error.PyverbsError
        self.RdmaError: type[Exception] = error.PyverbsRDMAError


def _module(name: str) -> Any:
    return importlib.import_module(f"pyverbs.{name}")


@cache
def load_pyverbs() -> Pyverbs:
    """Import pyverbs.  Raises ResourceError, with the fix, where it is missing or does not fit its libraries."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return Pyverbs()
    except ImportError as error:
        raise ResourceError(
            f"provider verbs needs pyverbs ({error}); install python3-pyverbs and run the system's Python, or a venv "
            "made with --system-site-packages, or choose provider=softiwarp"
        ) from error
    finally:
        # Importing pyverbs configures the root logger; that is not a library's to decide.
        root.handlers[:] = handlers
        root.setLevel(level)


def device_error(what: str, error: BaseException) -> IserError:
    """An error of opening or using a device, with what to do about it."""
    code = getattr(error, "error_code", None) or getattr(error, "errno", None)
    if code in (EACCES, EPERM):
        fix = "allow this user to open /dev/infiniband/uverbs* and /dev/infiniband/rdma_cm"
    elif code in (ENOENT, ENODEV):
        fix = "load its driver and ib_uverbs, rdma_ucm; 'rdma link' lists what there is"
    elif code == ENOMEM:
        return memlock_error(what)
    else:
        fix = "'iser doctor' shows the devices and their limits"
    return ResourceError(f"{what} failed: {_first_line(error)}; {fix}")


def _first_line(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return (text.splitlines() or [type(error).__name__])[0].rstrip(". ")


def memlock_limit() -> int | None:
    """RLIMIT_MEMLOCK in bytes; None for no limit."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def memlock_error(what: str) -> ResourceError:
    """Out of memory to pin or to make a queue from."""
    limit = memlock_limit()
    if limit is None:
        return ResourceError(f"{what} failed: the system has no memory left to pin; lower queue_depth or cache less")
    return ResourceError(
        f"{what} failed: no memory left to pin under RLIMIT_MEMLOCK of {limit >> 10} KiB; raise it, as with "
        "'ulimit -l unlimited' or LimitMEMLOCK=infinity in the service"
    )


def event_descriptors() -> set[int]:
    """The file descriptors of this process that carry device events.

    Before version 57 pyverbs keeps those of a completion channel to itself, and those of a context always: who
    compares this before and after making one has it.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _EVENT_LINK:
                found.add(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
    return found
