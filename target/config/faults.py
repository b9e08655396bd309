"""Every fault of a configuration, in words: those pydantic found, and those that take more than one field to see."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic_core import ErrorDetails

from iser.errors import UsageError
from target.backends.rbd import parse_rbd
from target.config.lines import Path as KeyPath
from target.config.values import DEFAULT_BLOCK_SIZE, DEFAULT_FIRST_BURST, DEFAULT_MAX_BURST, parse_listen, parse_size

__all__ = ["Fault", "combined_faults", "dotted", "model_fault"]


class Fault(NamedTuple):
    """One fault: where, as the path of the key, and what, with the fix."""

    path: KeyPath
    what: str


#: What to say for pydantic's error types; the braces take the error's context and ``input``.
_WORDS: Mapping[str, str] = {
    "missing": "is missing; add it",
    "int_type": "has to be a whole number, not {input!r}",
    "float_type": "has to be a number, not {input!r}",
    "bool_type": "has to be true or false, not {input!r}",
    "string_type": "has to be a text in quotes, not {input!r}",
    "dict_type": "has to be a table, not {input!r}",
    "model_type": "has to be a table, not {input!r}",
    "tuple_type": "has to be a list, not {input!r}",
    "too_short": "is empty; give at least {min_length}",
    "too_long": "has too many entries; at most {max_length} are allowed",
    "greater_than_equal": "is {input!r}; it has to be at least {ge}",
    "less_than_equal": "is {input!r}; it has to be at most {le}",
    "literal_error": "is {input!r}; it has to be {expected}",
    "enum": "is {input!r}; it has to be {expected}",
    "string_pattern_mismatch": "{input!r} has letters that are not allowed; use printable ASCII",
    "string_too_long": "{input!r} is too long; at most {max_length} letters are allowed",
    "string_too_short": "is empty; give at least {min_length} letter",
}


#: What to add where these are missing.
_ADD: Mapping[str, str] = {
    "portal": "add [portal.main] with listen = 'iser://HOST:PORT'",
    "listen": "add listen = 'iser://HOST:PORT'",
    "target": "add [[target]] with a name and a [[target.lun]]",
    "name": "add name = 'iqn.YEAR-MONTH.DOMAIN:TEXT'",
    "lun": "add [[target.lun]] with id and backend",
    "id": "add id = 0, or another number that is free",
    "backend": "add backend = 'memory' or 'file'",
}


def dotted(path: KeyPath) -> str:
    """A path as people write it: ``target[0].lun[1].size``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def model_fault(error: ErrorDetails, known: Sequence[str]) -> Fault:
    """A pydantic error in our words; ``known`` are the keys that are legal beside the one at fault."""
    path: KeyPath = tuple(error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return Fault(path, f"is not a known key; {hint}")
    if kind == "missing" and path[-1] in _ADD:
        return Fault(path, f"is missing; {_ADD[str(path[-1])]}")
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "value_error":
        return Fault(path, str(context["error"]))
    words = _WORDS.get(kind)
    return Fault(path, words.format(input=error["input"], **context) if words else error["msg"])


def combined_faults(raw: Mapping[str, Any], base: Path) -> Iterator[Fault]:
    """Faults between fields, from the raw tables, so that they show beside a wrong type elsewhere.

    ``base`` is the directory that relative paths start from.  Whatever is of a wrong type is passed over.
    """
    yield from _portal_faults(raw)
    yield from _limit_faults(raw)
    yield from _repeated(_tables(raw, ("target",)), "name", "the name of two targets")
    paths: dict[Path, KeyPath] = {}
    all_luns = []
    for target_path, target in _tables(raw, ("target",)):
        luns = list(_tables(target, (*target_path, "lun")))
        yield from _repeated(luns, "id", "the id of two LUNs of this target")
        for path, lun in luns:
            yield from _lun_faults(path, lun, base, paths)
        all_luns += luns
    yield from _repeated(all_luns, "serial", "the serial of two LUNs")


def _tables(holder: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    entries = holder.get(str(path[-1]))
    if isinstance(entries, list):
        yield from (((*path, index), entry) for index, entry in enumerate(entries) if isinstance(entry, dict))


def _repeated(tables: Iterable[tuple[KeyPath, Mapping[str, Any]]], key: str, words: str) -> Iterator[Fault]:
    seen: dict[object, KeyPath] = {}
    for path, table in tables:
        value = table.get(key)
        if not isinstance(value, str | int):
            continue
        first = seen.setdefault(value, path)
        if first != path:
            yield Fault((*path, key), f"{value!r} is {words}, first of {dotted(first)}; change one")


def _portal_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    portals = raw.get("portal")
    seen: dict[object, str] = {}
    for name, portal in portals.items() if isinstance(portals, dict) else ():
        try:
            listen = parse_listen(portal.get("listen") if isinstance(portal, dict) else None)
        except UsageError:
            continue
        first = seen.setdefault(listen, name)
        if listen.port and first != name:
            yield Fault(("portal", name, "listen"), f"{listen} is taken by portal {first}; give another port")


def _limit_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    limits = raw.get("limits")
    if not isinstance(limits, dict):
        return
    first = _size(limits.get("first_burst_length", DEFAULT_FIRST_BURST))
    most = _size(limits.get("max_burst_length", DEFAULT_MAX_BURST))
    if first is not None and most is not None and first > most:
        key = "first_burst_length" if "first_burst_length" in limits else "max_burst_length"
        yield Fault(("limits", key), f"first_burst_length {first} is more than max_burst_length {most}; change one")


def _size(value: object) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except UsageError:
        return None


def _lun_faults(path: KeyPath, lun: Mapping[str, Any], base: Path, paths: dict[Path, KeyPath]) -> Iterator[Fault]:
    size, backend = _size(lun.get("size")), lun.get("backend")
    kind = backend if isinstance(backend, str) else ""
    block_size = lun.get("block_size", DEFAULT_BLOCK_SIZE)
    if not isinstance(block_size, int) or block_size <= 0:
        return
    if size is not None and (size % block_size or not size):
        good = max(block_size, size - size % block_size)
        yield Fault((*path, "size"), f"{size} bytes are not a multiple of block_size {block_size}; write {good}")
    physical = lun.get("physical_block_size")
    if isinstance(physical, int) and physical < block_size:
        yield Fault((*path, "physical_block_size"), f"{physical} is less than block_size {block_size}; leave it out")
    if kind == "memory" and "size" not in lun:
        yield Fault((*path, "size"), "is missing; a memory LUN needs one, such as '256M'")
    if kind in _BY_PATH:
        yield from _path_faults(path, lun, base, paths)
    elif kind in _BY_URI and "uri" not in lun:
        yield Fault((*path, "uri"), f"is missing; an {kind} LUN needs one, such as {_BY_URI[kind]!r}")
    if kind in _KINDS and "path" in lun and kind not in _BY_PATH:
        yield Fault((*path, "path"), f"does not belong to a {kind} LUN; remove it, or set backend = 'file'")
    if kind in _KINDS and "uri" in lun and kind not in _BY_URI:
        yield Fault((*path, "uri"), f"does not belong to a {kind} LUN; remove it, or set backend = 'nbd' or 'rbd'")
    if kind == "rbd" and isinstance(lun.get("uri"), str):
        yield from _rbd_faults(path, lun["uri"])


#: Backends by what tells where their bytes are.
_BY_PATH = ("file", "block")
_BY_URI: Final = {"nbd": "nbd://localhost/export", "rbd": "rbd:pool/image"}
_KINDS = ("memory", *_BY_PATH, *_BY_URI)


def _rbd_faults(path: KeyPath, uri: str) -> Iterator[Fault]:
    try:
        parse_rbd(uri)
    except UsageError as error:
        yield Fault((*path, "uri"), str(error))


def _path_faults(path: KeyPath, lun: Mapping[str, Any], base: Path, paths: dict[Path, KeyPath]) -> Iterator[Fault]:
    if "path" not in lun:
        yield Fault((*path, "path"), f"is missing; a {lun['backend']} LUN needs one")
        return
    if not isinstance(lun["path"], str):
        return
    file = base / lun["path"]
    first = paths.setdefault(file, path)
    if first != path:
        yield Fault((*path, "path"), f"{file} already is that of {dotted(first)}; give each LUN its own file")
    block_size = lun.get("block_size", DEFAULT_BLOCK_SIZE)
    read_only = lun.get("read_only") is True
    what = _file_fault(file, _size(lun.get("size")), block_size, read_only=read_only, sized="size" in lun)
    if what:
        yield Fault((*path, "path"), f"{file} {what}")


def _file_fault(file: Path, size: int | None, block_size: int, *, read_only: bool, sized: bool) -> str | None:
    """What is wrong with the file itself, without making or opening it."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return _absent_fault(file, read_only=read_only, sized=sized)
    except OSError as error:
        return f"cannot be reached: {error.strerror}"
    if not _allowed(file, os.R_OK if read_only else os.R_OK | os.W_OK):
        return "may not be read" if read_only else "may not be written; change its permissions or set read_only = true"
    if stat.S_ISBLK(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        return "is neither a file nor a block device"
    return _length_fault(status.st_size, size, block_size, read_only=read_only, sized=sized)


def _absent_fault(file: Path, *, read_only: bool, sized: bool) -> str | None:
    if not file.parent.is_dir():
        return f"cannot be: there is no directory {file.parent}; make it"
    if read_only:
        return "does not exist; a read-only LUN needs a file that is there"
    if not sized:
        return "does not exist; add a size to have it made"
    return None if _allowed(file.parent, os.W_OK | os.X_OK) else f"may not be made in {file.parent}; change permissions"


def _length_fault(found: int, size: int | None, block_size: int, *, read_only: bool, sized: bool) -> str | None:
    if sized:
        short = size is not None and found < size and (found > 0 or read_only)
        return f"has {found} bytes, less than size {size}; lower the size or enlarge the file" if short else None
    if not found:
        return "is empty; add a size to have it enlarged"
    if found % block_size:
        return f"has {found} bytes, not a multiple of block_size {block_size}; add a size"
    return None


def _allowed(file: Path, mode: int) -> bool:
    return os.access(file, mode, effective_ids=True)
