"""tgt's ``targets.conf``, as tgt-admin reads it, as a configuration of ours.

Where something cannot be had as it was, less is allowed and not more: a target that was for some addresses only is for
nobody, until somebody writes whom it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from iser.errors import UsageError
from target.config.importing.document import Document, Imported

__all__ = ["import_tgt", "parse_tgt"]

_OPEN = re.compile(r"<\s*([A-Za-z-]+)\s+([^>]+?)\s*>")
_CLOSE = re.compile(r"<\s*/\s*([A-Za-z-]+)\s*>")
_ENTRY = re.compile(r"([^\s=]*)\s*=?\s*(.*)")
_STORES: Final = ("backing-store", "direct-store")
_BACKENDS: Final = {"rdwr": "file", "aio": "block"}
#: Of a LUN and without effect on what we serve.
_HARMLESS: Final = ("allow-in-use", "mode_page", "scsi_id", "vendor_id", "product_rev", "sense_format", "online")


@dataclass(slots=True)
class _Block:
    """``<kind value>`` with what is in it, in order, keys in lower case."""

    kind: str
    value: str
    entries: list[tuple[str, str]] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.entries if name == key]

    def last(self, key: str) -> str | None:
        return next(iter(reversed(self.all(key))), None)


def parse_tgt(text: str) -> _Block:
    """The file as one block that holds all.  Raises UsageError, with the line, for blocks that do not match."""
    top = _Block("", "")
    stack = [top]
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if close := _CLOSE.fullmatch(line):
            if len(stack) == 1 or stack[-1].kind != close[1].lower():
                raise UsageError(f"line {number}: </{close[1]}> closes nothing; is its <{close[1]} ...> there?")
            stack.pop()
        elif begin := _OPEN.fullmatch(line):
            block = _Block(begin[1].lower(), begin[2].strip('"'))
            # The place among the plain entries counts: LUNs are numbered in the order of the file.
            stack[-1].entries.append((f"<{block.kind}>", str(len(stack[-1].blocks))))
            stack[-1].blocks.append(block)
            stack.append(block)
        elif line.startswith("<"):
            raise UsageError(f"line {number}: {line!r} is no block; write <target NAME>")
        else:
            key, value = _entry(line)
            stack[-1].entries.append((key, value))
    if len(stack) > 1:
        raise UsageError(f"<{stack[-1].kind} {stack[-1].value}> is not closed at the end of the file")
    return top


def _entry(line: str) -> tuple[str, str]:
    """``key value`` or ``key = value``, perhaps with quotes and a comment behind it."""
    key, value = _ENTRY.fullmatch(re.sub(r"\s#.*", "", line)).groups()  # type: ignore[union-attr]  # it fits any line
    return key.lower(), value.strip().strip('"')


def import_tgt(text: str) -> Imported:
    """``text`` is the file.  Raises UsageError for one that is not of this kind."""
    top, document = parse_tgt(text), Document()
    for key, value in top.entries:
        _global(document, key, value)
    driver = top.last("default-driver") or "iscsi"
    for block in top.blocks:
        if block.kind == "target":
            _target(document, block, driver)
        else:
            document.note(f"<{block.kind} {block.value}> has no counterpart")
    _proof(document, top, "incomingdiscoveryuser", "outgoingdiscoveryuser", "discovery", document.discovery)
    return document.result("tgt's targets.conf")


def _global(document: Document, key: str, value: str) -> None:
    if key == "include":
        document.note(f"include {value}: not followed; import those files, too, and put their targets together")
    elif key not in ("default-driver", "ignore-errors", "incomingdiscoveryuser", "outgoingdiscoveryuser", "<target>"):
        document.note(f"{key} has no counterpart")


def _target(document: Document, block: _Block, default_driver: str) -> None:
    where, driver = f"target {block.value}", block.last("driver") or default_driver
    if driver not in ("iscsi", "iser"):
        document.note(f"{where}: not imported: its driver is {driver}, ours are iscsi and iser")
        return
    luns = list(_luns(document, where, block))
    if not luns:
        document.note(f"{where}: not imported: it has no LUN that can be imported")
        return
    # tgtd listens on every address, whatever the target is.
    portal = document.add_portal(f"{'iser' if driver == 'iser' else 'iscsi'}://0.0.0.0:3260", 1, where)
    document.note("portals: tgtd's own are flags of its command line; these are its defaults, so check them")
    rules = _rules(document, where, block)
    document.target.append({"name": block.value, "portals": [portal], "lun": luns} | ({"acl": rules} if rules else {}))
    for key, value in block.entries:
        if key not in _KNOWN:
            document.note(f"{where}: {key} {value} has no counterpart")


_KNOWN: Final = {
    "driver", "backing-store", "direct-store", "<backing-store>", "<direct-store>", "initiator-address",
    "initiator-name", "incominguser", "outgoinguser", "write-cache", "readonly", "bs-type", "block-size", "scsi_sn",
    "product_id", *_HARMLESS,
}  # fmt: skip


# LUNs


def _luns(document: Document, where: str, target: _Block) -> Iterator[dict[str, Any]]:
    stores = list(_stores(target))
    taken = {int(given) for store in stores if (given := store.last("lun")) and given.isdigit()}
    free = (number for number in range(1, 16384) if number not in taken)
    document.note("LUN 0 of each target was tgt's controller; initiators that want a LUN 0 do not find one")
    for store in stores:
        given = store.last("lun")
        number = int(given) if given and given.isdigit() else next(free)
        made = _lun(document, f"{where} LUN {number}", store, target)
        if made and document.claim(store.value, f"{where} LUN {number}"):
            yield {"id": number} | made


def _stores(target: _Block) -> Iterator[_Block]:
    for key, value in target.entries:
        if key in _STORES:
            yield _Block(key, value)
        elif key.strip("<>") in _STORES:
            yield target.blocks[int(value)]


def _lun(document: Document, place: str, store: _Block, target: _Block) -> dict[str, Any] | None:
    said = {**_said(target), **_said(store)}
    made = _backend(document, place, store, said)
    if made is None:
        return None
    size = said.get("block-size", "512")
    if size == "4096":
        made["block_size"] = 4096
    elif size != "512":
        document.note(f"{place}: block size {size} is 512 here; check that its users can live with that")
    if said.get("readonly", "").lower() in ("1", "yes", "true"):
        made["read_only"] = True
    for key, ours, longest in (("scsi_sn", "serial", 36), ("product_id", "product", 16)):
        value = said.get(key)
        if value and value.isascii() and value.isprintable() and len(value) <= longest:
            made[ours] = value
        elif value:
            document.note(f"{place}: {key} {value!r} is not imported: at most {longest} letters of ASCII are allowed")
    if said.get("write-cache", "").lower() == "off":
        document.note(f"{place}: write-cache off has no counterpart; initiators may ask for FUA")
    for key, value in store.entries:
        if key not in {*_KNOWN, "lun", "device-type"}:
            document.note(f"{place}: {key} {value} has no counterpart")
    return made


def _said(block: _Block) -> dict[str, str]:
    return {key: value for key, value in block.entries if value}


def _backend(document: Document, place: str, store: _Block, said: dict[str, str]) -> dict[str, Any] | None:
    """What stores the bytes; None, with a note, for what we have nothing for."""
    kind, device = said.get("bs-type", "rdwr"), said.get("device-type", "disk")
    if device != "disk":
        document.note(f"{place}: not imported: a {device} has no counterpart")
        return None
    if store.kind == "direct-store":
        document.note(f"{place}: its names are not those of the device {store.value} any more, but our own")
    if kind == "rbd":
        return {"backend": "rbd", "uri": f"rbd:{store.value}"}
    if kind in _BACKENDS:
        return {"backend": "block" if store.value.startswith("/dev/") else _BACKENDS[kind], "path": store.value}
    document.note(f"{place}: not imported: bs-type {kind} has no counterpart")
    return None


# Rules


def _rules(document: Document, where: str, target: _Block) -> list[dict[str, Any]]:
    """None at all is open to everybody, as it is with tgt."""
    proof: dict[str, Any] = {}
    _proof(document, target, "incominguser", "outgoinguser", where, proof)
    names = target.all("initiator-name")
    addresses = [address for address in target.all("initiator-address") if address.upper() != "ALL"]
    if addresses:
        listed = ", ".join(addresses)
        if not names:
            document.note(f"{where}: was for the addresses {listed}, and rules here are by name; nobody gets in now")
            return [{"initiator": "*", "allow": False}]
        document.note(f"{where}: was for the addresses {listed}, too; here whoever has the name gets in from anywhere")
    if names:
        return [{"initiator": name} | proof for name in names]
    return [{"initiator": "*"} | proof] if proof else []


def _proof(document: Document, block: _Block, incoming: str, outgoing: str, where: str, into: dict[str, Any]) -> None:
    """Put ``chap`` and ``mutual`` into a table, from entries such as ``incominguser NAME SECRET``."""
    users = [_user(document, value, incoming, where) for value in block.all(incoming)]
    if not users:
        return
    into["chap"] = list(dict.fromkeys(users))
    mutual = [_user(document, value, outgoing, where) for value in block.all(outgoing)]
    if mutual:
        into["mutual"] = mutual[0]
    if len(mutual) > 1:
        document.note(f"{where}: has more than one {outgoing}; the first is taken")


def _user(document: Document, value: str, key: str, where: str) -> str:
    user, _, secret = value.partition(" ")
    if not secret.strip():
        raise UsageError(f"{where}: {key} needs a name and a secret")
    return document.add_user(user.strip('"'), secret.strip().strip('"'), where)
