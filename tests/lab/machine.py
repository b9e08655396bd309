"""One virtual machine: boot it, run commands in it, reach it and be reached, power it off."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import socket
import subprocess
import time
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.lab.build import Build
from tests.lab.channel import AgentChannel, Monitor, Result
from tests.lab.errors import LabError

__all__ = ["BOOT_SECONDS", "HOST", "Job", "Machine"]

HOST: Final = "10.0.2.2"  # how the guest calls this machine's loopback
BOOT_SECONDS: Final = 240.0  # emulated, on a busy machine
MEMORY: Final = 3072  # MiB
SECONDS: Final = 60.0  # for a command, unless it says otherwise
_ANSWER_SLACK: Final = 30.0  # seconds beyond a command's own, after which the guest counts as hung

log = logging.getLogger("lab")


class Job:
    """A command that runs in the guest."""

    def __init__(self, channel: AgentChannel, script: str, stdin: bytes, seconds: float) -> None:
        self._channel = channel
        self._script = script
        self._patience = seconds + _ANSWER_SLACK
        self._number, self.future = channel.start(("/bin/bash", "-c", script), stdin, seconds)

    def wait(self) -> Result:
        """Its result, whatever its exit code.  Raises LabError if the guest does not answer at all."""
        try:
            return self.future.result(self._patience)
        except FutureTimeout:
            raise LabError(f"the guest hangs: no answer to {self._script[:120]!r}; see .lab/logs") from None

    def kill(self) -> None:
        """SIGKILL to it and to all that it started."""
        self._channel.kill(self._number)


class Machine:
    """A context manager; power is off when it ends, and when the process that booted it ends."""

    def __init__(self, build: Build, name: str) -> None:
        self.build = build
        self._name = name
        self._forwards: dict[int, int] = {}
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        logs = build.logs / name
        logs.mkdir(exist_ok=True)
        self._errors = (logs / "qemu.log").open("wb")
        self._process = subprocess.Popen(
            _command(build, logs, theirs[0].fileno(), theirs[1].fileno()),
            pass_fds=[line.fileno() for line in theirs], stdin=subprocess.DEVNULL, stdout=self._errors,
            stderr=self._errors, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        for line in theirs:
            line.close()
        self._agent = AgentChannel(ours[0])
        try:
            self._monitor = Monitor(ours[1])
        except BaseException:
            ours[1].close()
            self._end_process()
            raise

    @classmethod
    def boot(cls, build: Build, name: str = "guest") -> Self:
        """Start one and wait for its agent; its logs are in a folder of its ``name``.  Raises LabError."""
        start = time.monotonic()
        machine = cls(build, name)
        try:
            machine._agent.ready.result(BOOT_SECONDS)
        except BaseException as error:
            machine.close()
            if isinstance(error, FutureTimeout):
                raise LabError(
                    f"the guest did not boot within {BOOT_SECONDS:g} s; see .lab/logs/{name}/console.log"
                ) from None
            raise
        log.info("the guest was up after %.0f seconds", time.monotonic() - start)
        return machine

    # Commands

    def start(self, script: str, *, stdin: bytes = b"", seconds: float = SECONDS) -> Job:
        """Run a bash script in the guest, as root; it is killed after ``seconds``."""
        return Job(self._agent, script, stdin, seconds)

    def run(self, script: str, *, stdin: bytes = b"", seconds: float = SECONDS, check: bool = True) -> Result:
        """Run a bash script to its end.  Raises CommandFailed unless it ends with 0 or ``check`` is False."""
        result = self.start(script, stdin=stdin, seconds=seconds).wait()
        return result.checked() if check else result

    async def arun(self, script: str, *, stdin: bytes = b"", seconds: float = SECONDS, check: bool = True) -> Result:
        """:meth:`run` without blocking the event loop; cancelling it kills the command."""
        job = self.start(script, stdin=stdin, seconds=seconds)
        try:
            result = await asyncio.to_thread(job.wait)
        except asyncio.CancelledError:
            job.kill()
            raise
        return result.checked() if check else result

    # Ports

    def forward(self, port: int) -> int:
        """The port of this machine's loopback that leads to ``port`` of the guest."""
        if port not in self._forwards:
            with contextlib.closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                ours = int(probe.getsockname()[1])
            said = self._monitor.human(f"hostfwd_add n0 tcp:127.0.0.1:{ours}-:{port}")
            if said.strip():
                raise LabError(f"qemu did not forward port {port}: {said.strip()}")
            self._forwards[port] = ours
        return self._forwards[port]

    # The end

    def close(self) -> None:
        """Keep the guest's log, and power off.  Idempotent."""
        atexit.unregister(self.close)
        if self._errors.closed:
            return
        try:
            if self._agent.ready.done() and self._process.poll() is None:
                with contextlib.suppress(LabError):
                    dmesg = self.run("dmesg", seconds=10, check=False)
                    (self.build.logs / self._name / "dmesg.log").write_text(dmesg.out)
        finally:
            self._end_process()
            self._monitor.close()

    def _end_process(self) -> None:
        self._process.kill()  # its disks are all in memory
        self._process.wait()
        self._agent.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _command(build: Build, logs: Path, agent: int, monitor: int) -> list[str]:
    """qemu's command line; ``agent`` and ``monitor`` are descriptors of connected sockets."""

    def share(path: str, tag: str) -> list[str]:
        return ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"]

    return [
        # Whatever ends us, SIGKILL too, ends the machine.
        "setpriv", "--pdeathsig", "KILL",
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(build.kernel), "-initrd", str(build.initrd),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable nokaslr",
        "-serial", f"file:{logs / 'console.log'}",
        "-chardev", f"socket,id=agent,fd={agent}",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=lab.agent",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        *share("/", "host"), *share(str(build.modules), "modules"),
        "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
