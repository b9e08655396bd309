"""A configuration of ours in the making: what an import gathers, and the TOML that it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from iser.errors import UsageError
from target.config.values import parse_listen

__all__ = ["Document", "Imported"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Imported(NamedTuple):
    """``text`` is TOML, ``notes`` what has no counterpart or has to be done by hand, one sentence each."""

    text: str
    notes: Sequence[str]


@dataclass(slots=True)
class Document:
    """Tables of a configuration, in the shape that TOML has.  No secret comes into it."""

    portal: dict[str, dict[str, Any]] = field(default_factory=dict)
    chap: dict[str, dict[str, Any]] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    target: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _stores: set[str] = field(default_factory=set)
    _users: dict[tuple[str, str], str] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Tell something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def claim(self, store: str, where: str) -> bool:
        """Whether ``store`` is of no LUN yet, and is from here on; else there is a note."""
        if store in self._stores:
            self.note(f"{where}: not imported: {store} is a LUN already, and has to be one only")
            return False
        self._stores.add(store)
        return True

    def add_portal(self, listen: str, group: int, where: str) -> str | None:
        """The name of the portal at ``listen``, made if it is new; None, with a note, for no address."""
        try:
            parsed = parse_listen(listen)
        except UsageError as error:
            self.note(f"{where}: not imported: {error}")
            return None
        for name, portal in self.portal.items():
            if portal["listen"] == str(parsed):
                if portal.get("group", 1) != group:
                    self.note(f"{where}: portal group {group} is {portal.get('group', 1)} here: a portal has one group")
                return name
        name = f"portal{len(self.portal)}"
        self.portal[name] = {"listen": str(parsed)} | ({"group": group} if group != 1 else {})
        return name

    def add_user(self, user: str, secret: str, where: str) -> str:
        """The table of a CHAP user, whose secret does not come with it; two secrets of one name make two tables."""
        key = (user, secret)
        if key not in self._users:
            base = re.sub(r"[^A-Za-z0-9_-]", "-", user) or "user"
            name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, 10000))) if n not in self.chap)
            self._users[key] = name
            self.chap[name] = ({"user": user} if user != name else {}) | {"secret_file": f"secrets/{name}"}
            self.note(f"{where}: put the secret of CHAP user {user!r} into secrets/{name}, which only you may read")
            if not 12 <= len(secret.encode()) <= 255:
                self.note(f"{where}: the secret of {user!r} has to be changed: it is not of 12 to 255 bytes")
        return self._users[key]

    def result(self, source: str) -> Imported:
        """What was gathered, as TOML."""
        lines = [f"# Imported from {source}."]
        for name, table in self.portal.items():
            lines += _table(f"[portal.{_key(name)}]", table)
        for name, table in self.chap.items():
            lines += _table(f"[chap.{_key(name)}]", table)
        for name, table in (("discovery", self.discovery), ("limits", self.limits)):
            if table:
                lines += _table(f"[{name}]", table)
        for target in self.target:
            lines += _table("[[target]]", {key: value for key, value in target.items() if key not in ("lun", "acl")})
            for name in ("lun", "acl"):
                for entry in target.get(name, ()):
                    lines += _table(f"[[target.{name}]]", entry)
        return Imported("\n".join(lines) + "\n", tuple(self.notes))


def _table(header: str, table: Mapping[str, Any]) -> list[str]:
    return ["", header, *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(key))} = {_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _string(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped and JSON does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
