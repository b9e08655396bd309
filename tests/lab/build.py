"""Makes what the guest boots from, once for each kernel release: modules, ``siw.ko``, initramfs, Python environment."""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.errors import LabUnavailable
from tests.lab.packages import download, install, kernel_release, require_debian

__all__ = ["FOLDER", "PROJECT", "Build", "prepare"]

PROJECT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = PROJECT / ".lab"

_GUEST: Final = Path(__file__).resolve().parent / "guest"
_SIW: Final = "drivers/infiniband/sw/siw"
#: What the initramfs needs to reach the root file system, and the agent to reach us.
_EARLY_MODULES: Final = ("virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_net", "virtio_console", "virtio_rng")
#: What of the project runs in the guest.
_COMPILED: Final = ("initiator", "iser", "target", "tests/interop", "tests/lab")


@dataclass(frozen=True, slots=True)
class Build:
    """What a machine is booted from."""

    release: str
    kernel: Path
    initrd: Path
    modules: Path  # the folder of this release's modules
    python: Path  # the interpreter for the guest, with this project and the distribution's pyverbs
    logs: Path


def prepare(folder: Path = FOLDER) -> Build:
    """Install, fetch and build what is not there yet.  Raises LabUnavailable with one line on what is missing."""
    require_debian()
    with _locked(folder):
        install()
        release = kernel_release()
        install((f"linux-headers-{release}",))
        place = folder / release
        place.mkdir(exist_ok=True)
        root = _kernel(release, folder / "debs", place)
        siw = _siw(release, folder / "debs", place)
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        return Build(
            release,
            root / f"boot/vmlinuz-{release}",
            _initrd(release, root, siw, place),
            root / f"lib/modules/{release}",
            _environment(folder / "venv"),
            logs,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kernel(release: str, debs: Path, place: Path) -> Path:
    """The unpacked kernel package."""
    root = place / "kernel"
    if not (root / f"lib/modules/{release}/modules.dep.bin").exists():
        (deb,) = download([f"linux-image-{release}"], debs)
        _run("unpacking the kernel", "dpkg", "-x", deb, root)
        _run("indexing the modules", "depmod", "-b", root, release)
    return root


def _siw(release: str, debs: Path, place: Path) -> Path:
    """The soft iWARP driver, which Debian's kernel comes without, built from the same package's source."""
    module = place / "siw.ko"
    if module.exists():
        return module
    version = ".".join(release.split(".")[:2])
    (deb,) = download([f"linux-source-{version}"], debs)
    unpack = (
        f"dpkg-deb --fsys-tarfile '{deb}' | tar -xO --wildcards '*linux-source-{version}.tar.xz'"
        f" | tar -xJ -C '{place}' --wildcards '*/{_SIW}'"
    )
    _run("unpacking the source of siw", "bash", "-c", f"set -o pipefail; {unpack}")
    source = place / f"linux-source-{version}" / _SIW
    headers = f"/usr/src/linux-headers-{release}"
    _run("building siw", "make", "-s", "-C", headers, f"M={source}", "CONFIG_RDMA_SIW=m", "modules")
    _run("stripping siw", "strip", "--strip-debug", "-o", module, source / "siw.ko")
    return module


def _initrd(release: str, root: Path, siw: Path, place: Path) -> Path:
    """A small initramfs; made anew each time, since the guest's side of the lab is in it."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return _pack(release, root, siw, Path(folder), place / "initrd.gz")


def _pack(release: str, root: Path, siw: Path, tree: Path, initrd: Path) -> Path:
    for name in ("bin", "m", "lab"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    for index, module in enumerate(_with_dependencies(release, root)):
        shutil.copy(module, tree / "m" / f"{index:02}-{module.name}")
    for file in (siw, _GUEST / "setup.sh", _GUEST / "agent.py"):
        shutil.copy(file, tree / "lab")
    shutil.copy(_GUEST / "init", tree / "init")
    (tree / "init").chmod(0o755)
    names = b"".join(os.fsencode(path.relative_to(tree)) + b"\0" for path in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-0", "-H", "newc", "--quiet"], cwd=tree, input=names, capture_output=True, check=False
    )
    if archive.returncode:
        raise LabUnavailable(f"making the initramfs failed: {archive.stderr.decode(errors='replace').strip()}")
    fresh = initrd.with_suffix(".new")
    fresh.write_bytes(gzip.compress(archive.stdout, 1))
    fresh.rename(initrd)  # whole at once: another machine may be booting from the one before
    return initrd


def _with_dependencies(release: str, root: Path) -> list[Path]:
    """Files of the early modules, each after those that it needs."""
    found: dict[Path, None] = {}
    for name in _EARLY_MODULES:
        lines = _run("resolving modules", "modprobe", "-d", root, "-S", release, "--show-depends", name)
        for line in lines.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def _environment(venv: Path) -> Path:
    """The distribution's Python, for its pyverbs, with this project and what it depends on."""
    python = venv / "bin/python"
    stamp = venv / ".installed"
    project = PROJECT / "pyproject.toml"
    if not stamp.exists() or stamp.stat().st_mtime < project.stat().st_mtime:
        _run("making the guest's venv", "/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", venv)
        _run("installing the project for the guest", python, "-m", "pip", "install", "-q", "-e", PROJECT)
        stamp.touch()
    # Emulated, a process of ours takes twice as long to start where it has to compile first.
    _run("compiling for the guest", python, "-m", "compileall", "-q", *(PROJECT / name for name in _COMPILED))
    return python


def _run(what: str, *command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise LabUnavailable(f"{what} failed: {lines[-1]}")
    return done.stdout
