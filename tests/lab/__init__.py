"""A virtual machine for what this machine's kernel does not have: RDMA devices, LIO, the kernel's iSER initiator.

Debian's stock kernel under qemu's software emulation, with the root file system of this machine inside it (read-only,
under an overlay in memory), ``rdma_rxe`` as packaged and ``siw`` built from Debian's kernel source.  All that it makes
is under ``.lab/`` of the project.
"""

from __future__ import annotations

from tests.lab.build import Build, prepare
from tests.lab.channel import CommandFailed, Result
from tests.lab.errors import LabError, LabUnavailable
from tests.lab.machine import HOST, Job, Machine

__all__ = ["HOST", "Build", "CommandFailed", "Job", "LabError", "LabUnavailable", "Machine", "Result", "prepare"]
