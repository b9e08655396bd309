"""Processor time and memory of a process and of those that it has started, from /proc (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Memory", "cpu_seconds", "family", "memory"]

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")
_KIB: Final = 1024
_PSS: Final = ("Pss_Anon", "Pss_Shmem")


class Memory(NamedTuple):
    """Bytes: resident, and with what is shared between processes counted by its share (its proportional set size).

    The latter is without what is mapped from files, whose share grows and shrinks as others map them, too.
    """

    rss: int
    pss: int


def _stat(pid: int) -> list[str]:
    """The fields behind the command's name, from the third of proc(5) on; empty for a process that is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """``pid`` and all its descendants that live."""
    parents = {int(path.name): _stat(int(path.name)) for path in _PROC.iterdir() if path.name.isdigit()}
    found = [pid]
    for one in found:  # which grows meanwhile
        found += [child for child, fields in parents.items() if fields and int(fields[1]) == one]
    return found


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time, user's and system's, of ``pid``, its threads and its children, ended ones included."""
    ticks = 0
    for one in family(pid):
        fields = _stat(one)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / _TICK


def memory(pid: int) -> Memory:
    """What ``pid`` and its descendants hold now."""
    rss = pss = 0
    for one in family(pid):
        for line in (_PROC / str(one) / "smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0]) * _KIB
            elif name in _PSS:
                pss += int(value.split()[0]) * _KIB
    return Memory(rss, pss)
