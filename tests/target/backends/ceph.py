"""A whole Ceph cluster of one monitor and one OSD that keeps its objects in memory, for as long as a test wants it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

__all__ = ["OneNodeCeph", "missing_programs"]

_PROGRAMS = ("monmaptool", "ceph-mon", "ceph-osd", "ceph", "rbd")
_CLUSTER = "4f0a3c1e-0000-4000-8000-000000000001"
_CONF = """\
[global]
fsid = {cluster}
mon_host = v1:127.0.0.1:{port}
public_addr = 127.0.0.1
ms_bind_msgr2 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data = {path}/mon
osd_data = {path}/osd
osd_objectstore = memstore
memstore_device_bytes = 536870912
run_dir = {path}
log_file = {path}/$name.log
admin_socket =
pid_file =
"""


def missing_programs() -> str:
    """The programs of Ceph that are not installed."""
    return ", ".join(program for program in _PROGRAMS if shutil.which(program) is None)


class OneNodeCeph:
    """The cluster; ``conf`` is its configuration file.  Use it as a context."""

    def __init__(self, path: Path) -> None:
        self.conf = path / "ceph.conf"
        self._path = path
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> OneNodeCeph:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()

    def run(self, *command: str) -> str:
        """Run a program of Ceph on the cluster to its end."""
        program, *arguments = command
        done = subprocess.run(
            [program, "-c", str(self.conf), *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for directory in ("mon", "osd"):
            (self._path / directory).mkdir()
        self.conf.write_text(_CONF.format(cluster=_CLUSTER, port=port, path=self._path))
        monmap = str(self._path / "monmap")
        self.run("monmaptool", "--create", "--fsid", _CLUSTER, "--addv", "a", f"v1:127.0.0.1:{port}", monmap)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._daemon("ceph-mon", "-f", "-i", "a")
        self.run("ceph-osd", "-i", "0", "--mkfs")  # it makes itself known to the monitor when it starts
        self._daemon("ceph-osd", "-f", "-i", "0")
        deadline = time.monotonic() + 60
        while not self._is_up():
            if time.monotonic() > deadline:
                raise TimeoutError("the OSD does not come up")
            time.sleep(0.2)
        self.run("ceph", "osd", "pool", "create", "rbd", "8")

    def _is_up(self) -> bool:
        try:
            return " up " in self.run("ceph", "osd", "tree")
        except subprocess.CalledProcessError:
            return False  # the monitor is not there yet

    def _daemon(self, program: str, *arguments: str) -> None:
        command = [program, "-c", str(self.conf), *arguments]
        self._daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
