"""The target's configuration: a TOML file, or flags of the command line.

Whoever loads one gets either a :class:`Config` with every value checked, or :class:`ConfigErrors` with every fault,
each with its place in the file, what is wrong and what to write instead.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from iser.errors import ConfigError, UsageError
from iser.scsi.lun import MAX_LUN
from target.backends.fault import Action, Operation
from target.config.access import AccessConfig, AclConfig, ChapConfig, DiscoveryConfig, access_faults
from target.config.base import Table as _Model
from target.config.base import resolve_path as _resolve
from target.config.faults import Fault, combined_faults, dotted, model_fault
from target.config.lines import Path as KeyPath
from target.config.lines import find_line, key_lines
from target.config.values import (
    DEFAULT_BLOCK_SIZE,
    DEFAULT_FIRST_BURST,
    DEFAULT_MAX_BURST,
    Listen,
    check_iscsi_name,
    parse_address,
    parse_listen,
    parse_size,
)
from target.config.workers import MAX_WORKERS, PortRange, parse_port_range, worker_faults

__all__ = [
    "AdminConfig",
    "Config",
    "ConfigErrors",
    "FaultConfig",
    "LimitsConfig",
    "LunConfig",
    "PortalConfig",
    "RnicConfig",
    "TargetConfig",
    "config_from_flags",
    "load",
    "load_tables",
    "parse_size",
]


class ConfigErrors(UsageError):  # noqa: N818 - it is several of ConfigError
    """All faults of one configuration, in the order of the file; the message has one line for each."""

    def __init__(self, faults: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


def _crc(value: object) -> bool | None:
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise UsageError(f"is {value!r}; it has to be true, false or 'auto'")
    return value


def _segment(value: object) -> int | str:
    if isinstance(value, str) and value in {"auto", "mss"}:
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_SEGMENT <= value <= MAX_SEGMENT:
        raise UsageError(f"is {value!r}; it has to be 'auto', 'mss' or {MIN_SEGMENT} to {MAX_SEGMENT} bytes")
    return value


#: Bounds of the FPDU payload that may be configured, in bytes; the upper one is the 16-bit length field of MPA.
MIN_SEGMENT, MAX_SEGMENT = 128, 65535
_SEGMENT = {"anyOf": [{"enum": ["auto", "mss"]}, {"type": "integer", "minimum": MIN_SEGMENT, "maximum": MAX_SEGMENT}]}

_SIZE_TEXT = {"type": "string", "pattern": r"^\s*[0-9]{1,19}\s*([KMGTPkmgtp]?)([iI]?[bB])?\s*$"}
Size = Annotated[
    int, BeforeValidator(parse_size), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, _SIZE_TEXT]})
]
_PATH = WithJsonSchema({"type": "string", "minLength": 1})
Ascii = r"^[ -~]*$"


class PortalConfig(_Model):
    """``[portal.NAME]``: where to listen; ``group`` is the portal group tag, for all targets."""

    listen: Annotated[
        Listen, PlainValidator(parse_listen), WithJsonSchema({"type": "string", "pattern": "^(iser|iscsi)://"})
    ]
    group: int = Field(default=1, ge=1, le=65535)


class FaultConfig(_Model):
    """An entry of ``faults``: see :class:`target.backends.fault.Fault`."""

    on: Annotated[Operation, Field(strict=False)]
    action: Annotated[Action, Field(strict=False)]
    nth: int = Field(default=1, ge=1)
    count: int = Field(default=1, ge=1)
    seconds: float = Field(default=0.0, ge=0, le=3600)


class LunConfig(_Model):
    """``[[target.lun]]``: one logical unit.

    ``size`` is bytes, ``threads`` the requests that a file, device or image serves at once.  ``path`` is of a file or
    block device, ``uri`` of an NBD export or a Ceph image.  ``thin`` None leaves it to the backend.  Persistent
    reservations that shall outlive a restart are kept in ``reservations``; for a file, in one beside it by default.
    """

    id: int = Field(ge=0, le=MAX_LUN)
    backend: Literal["memory", "file", "block", "nbd", "rbd"]
    size: Size | None = None
    path: Annotated[Path | None, PlainValidator(_resolve), _PATH] = None
    uri: str | None = Field(default=None, min_length=1, max_length=1024, pattern=Ascii)
    block_size: Literal[512, 4096] = DEFAULT_BLOCK_SIZE
    physical_block_size: Literal[512, 4096] | None = None
    read_only: bool = False
    removable: bool = False
    thin: bool | None = None
    reservations: Annotated[Path | None, PlainValidator(_resolve), _PATH] = None
    serial: str | None = Field(default=None, min_length=1, max_length=36, pattern=Ascii)
    product: str = Field(default="VIRTUAL DISK", min_length=1, max_length=16, pattern=Ascii)
    descriptor_sense: bool = False
    threads: int = Field(default=8, ge=1, le=64)
    faults: tuple[FaultConfig, ...] = Field(default=(), strict=False, max_length=64)


class TargetConfig(_Model):
    """``[[target]]``: an iSCSI target node, on all portals or on those named; ``acl`` is tried in order.

    ``worker`` is the number of the process that serves it, from 1, where there are several; None lets us choose.
    """

    name: Annotated[
        str, PlainValidator(check_iscsi_name), WithJsonSchema({"type": "string", "pattern": r"^(iqn|eui|naa)\."})
    ]
    alias: str = Field(default="", max_length=255)
    portals: tuple[str, ...] = Field(default=(), strict=False, max_length=64)
    worker: int | None = Field(default=None, ge=1, le=MAX_WORKERS)
    acl: tuple[AclConfig, ...] = Field(default=(), strict=False, max_length=1024)
    lun: tuple[LunConfig, ...] = Field(strict=False, min_length=1, max_length=1024)


class LimitsConfig(_Model):
    """``[limits]``: of each session, but for those of sessions and logins.

    Names and ranges are those of the RFC 7143 keys.  ``max_logins`` bounds the connections that have not logged in yet:
    one more, and the oldest of them goes.  A login has ``login_timeout`` seconds.  ``busy_poll_us`` is how many
    microseconds the process looks out for the next request before it sleeps, 0 for not at all.
    """

    queue_depth: int = Field(default=64, ge=1, le=1024)
    max_sessions: int = Field(default=64, ge=1, le=65535)
    max_sessions_per_initiator: int = Field(default=65535, ge=1, le=65535)
    max_logins: int = Field(default=64, ge=1, le=4096)
    login_timeout: float = Field(default=15.0, ge=0.1, le=3600)
    immediate_data: bool = True
    initial_r2t: bool = True
    first_burst_length: Annotated[Size, Field(ge=512, le=(1 << 24) - 1)] = DEFAULT_FIRST_BURST
    max_burst_length: Annotated[Size, Field(ge=512, le=(1 << 24) - 1)] = DEFAULT_MAX_BURST
    max_transfer: Annotated[Size, Field(ge=4096, le=256 << 20)] = 8 << 20
    busy_poll_us: int = Field(default=200, ge=0, le=1000)


class RnicConfig(_Model):
    """``[rnic]``: ``provider`` auto is verbs for a portal whose address an RDMA device owns, else softiwarp.

    For softiwarp, ``crc`` None leaves it to the RNIC; ``segment`` is the payload of one FPDU.
    """

    provider: Literal["auto", "verbs", "softiwarp"] = "auto"
    crc: Annotated[bool | None, PlainValidator(_crc), WithJsonSchema({"enum": [True, False, "auto"]})] = None
    segment: Annotated[int | str, PlainValidator(_segment), WithJsonSchema(_SEGMENT)] = "auto"


class AdminConfig(_Model):
    """``[admin]``: the socket for ``iser-target status`` and its like, and where Prometheus gets its metrics."""

    socket: Annotated[Path | None, PlainValidator(_resolve), _PATH] = None
    metrics: Annotated[
        tuple[str, int] | None, PlainValidator(parse_address), WithJsonSchema({"type": "string", "pattern": ":[0-9]+$"})
    ] = None


class Config(_Model):
    """The whole file.

    ``workers`` is the number of processes among which the targets are shared out.  Each also listens at a port of its
    own beside each portal: one of ``worker_ports``, or any that is free.
    """

    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    worker_ports: Annotated[
        PortRange | None,
        PlainValidator(parse_port_range),
        WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$"}),
    ] = None

    portal: dict[str, PortalConfig] = Field(min_length=1, max_length=64)
    target: tuple[TargetConfig, ...] = Field(strict=False, min_length=1, max_length=256)
    limits: LimitsConfig = LimitsConfig()
    rnic: RnicConfig = RnicConfig()
    chap: dict[str, ChapConfig] = Field(default={}, max_length=4096)
    discovery: DiscoveryConfig = DiscoveryConfig()
    access: AccessConfig = AccessConfig()
    admin: AdminConfig = AdminConfig()

    def groups(self, target: TargetConfig) -> tuple[int, ...]:
        """The tags of the portal groups that ``target`` is to be reached by, as far as its portals are served."""
        return tuple(sorted({self.portal[name].group for name in target.portals or self.portal if name in self.portal}))


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a TOML file; relative paths in it start from its directory.  Raises ConfigErrors."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigErrors([ConfigError(str(file), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigErrors([ConfigError(str(file), f"is not UTF-8 text, from byte {error.start} on")]) from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigErrors([_syntax_fault(file, text, error)]) from error
    lines = key_lines(text)

    def locate(fault: Fault) -> tuple[int, ConfigError]:
        line = find_line(lines, fault.path) or 1
        return line, ConfigError(f"{file}:{line}", f"{dotted(fault.path)}: {fault.what}")

    return _validate(raw, file.absolute().parent, locate)


def load_tables(tables: Mapping[str, Any], base: Path) -> Config:
    """Check what a TOML file says, read already; relative paths start from ``base``.  Raises ConfigErrors."""
    return _validate(tables, base, lambda fault: (0, ConfigError(dotted(fault.path), fault.what)))


def _syntax_fault(file: Path, text: str, error: tomllib.TOMLDecodeError) -> ConfigError:
    """The place that the reader puts into its message, as ours."""
    what = str(error)
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", what)
    if match is None:
        return ConfigError(str(file), f"not TOML: {what}")
    line = int(match[1]) if match[1] else len(text.splitlines())
    return ConfigError(f"{file}:{line}", f"not TOML: {what[: match.start()]}")


def _validate(raw: Mapping[str, Any], base: Path, locate: Callable[[Fault], tuple[int, ConfigError]]) -> Config:
    faults = [*combined_faults(raw, base), *access_faults(raw), *worker_faults(raw, base)]
    config = None
    try:
        config = Config.model_validate(raw, context=base)
    except ValidationError as error:
        faults += [model_fault(detail, _known_keys(tuple(detail["loc"]))) for detail in _own_errors(error)]
    if config is None or faults:
        located = sorted(map(locate, dict.fromkeys(faults)), key=lambda pair: pair[0])
        raise ConfigErrors([error for _, error in located])
    return config


def _own_errors(error: ValidationError) -> list[ErrorDetails]:
    """The errors without those of a list that is too short only because its entries have errors themselves."""
    return [detail for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]]


def _known_keys(path: KeyPath) -> Sequence[str]:
    """The keys that are legal in the table which holds ``path``: a walk down the models."""
    model: type[BaseModel] = Config
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            nested = (field.annotation, *get_args(field.annotation))
            tables = (entry for entry in nested if isinstance(entry, type) and issubclass(entry, BaseModel))
            model = next(tables, model)
    return tuple(model.model_fields)


def config_from_flags(
    *,
    name: str,
    listen: Sequence[str],
    memory: str | None = None,
    file: str | None = None,
    size: str | None = None,
) -> Config:
    """The configuration for ``iser-target serve`` without a file: one target, one LUN for each of memory and file.

    ``memory`` is a size; ``file`` a path, relative to the current directory, made with ``size`` if it is not there.
    Raises ConfigErrors whose places are the flags, such as ``--memory``.
    """
    luns: list[dict[str, Any]] = []
    flags: list[str] = []
    if memory is not None:
        luns.append({"id": 0, "backend": "memory", "size": memory})
        flags.append("--memory")
    if file is not None:
        luns.append({"id": len(luns), "backend": "file", "path": file} | ({"size": size} if size is not None else {}))
        flags.append("--file")
    portals = {f"portal{index}": {"listen": address} for index, address in enumerate(listen)}

    def locate(fault: Fault) -> tuple[int, ConfigError]:
        return 0, _flag_fault(fault, flags)

    return _validate({"portal": portals, "target": [{"name": name, "lun": luns}]}, Path.cwd(), locate)


def _flag_fault(fault: Fault, lun_flags: Sequence[str]) -> ConfigError:
    """``fault`` with the flag for its place."""
    match fault.path:
        case ("portal",):
            return ConfigError("--listen", "is missing; give at least one, such as iser://127.0.0.1:3260")
        case ("portal", *_):
            return ConfigError("--listen", fault.what)
        case ("target", 0, "lun"):
            return ConfigError("--memory", "is missing; give --memory SIZE or --file PATH, or both")
        case ("target", 0, "lun", int(index), *rest):
            flag = "--size" if lun_flags[index] == "--file" and rest == ["size"] else lun_flags[index]
            return ConfigError(flag, fault.what)
        case _:
            return ConfigError("--name", fault.what)
