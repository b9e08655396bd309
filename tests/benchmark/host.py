"""What the benchmark needs of this machine: the peers' packages, files enough, memory for LUNs, free ports."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab.packages import install, version_of

__all__ = ["PACKAGES", "BenchmarkError", "free_port", "install_peers", "raise_file_limit", "versions", "work_folder"]

#: The Debian packages of the peers, and a command of each.
PACKAGES: Final = {"tgt": "tgtd", "libiscsi-bin": "iscsi-perf"}
_MEMORY: Final = Path("/dev/shm")


class BenchmarkError(Exception):
    """Something that the benchmark needs is missing or failed; the message says what, and what to do."""


def install_peers() -> None:
    """Install what is missing of :data:`PACKAGES`.  Raises BenchmarkError, and LabUnavailable when a download fails."""
    wanted = [package for package, command in PACKAGES.items() if _find(command) is None]
    if wanted and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        raise BenchmarkError(f"the benchmark needs {' and '.join(wanted)}: apt-get install {' '.join(wanted)}")
    install(wanted)


def _find(command: str) -> str | None:
    """Daemons are in a folder that is not in everybody's path."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def versions() -> dict[str, str]:
    """The version of each peer, by package."""
    return {package: version_of(package) for package in PACKAGES}


def raise_file_limit() -> None:
    """Let this process and those that it starts have as many open files as they may: there is one to a session."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def work_folder(space: int) -> Iterator[Path]:
    """A folder in memory, or where that has not ``space`` bytes on the disk; it is gone at the end."""
    place = None
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > space:
        place = _MEMORY
    with tempfile.TemporaryDirectory(prefix="iser-benchmark-", dir=place) as folder:
        yield Path(folder)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
