"""The tables of access control, and the policy that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from iser.errors import UsageError
from iser.login.chap import ALGORITHMS, ChapUser
from iser.scsi.lun import MAX_LUN
from iser.secret import Secret
from target.access import AccessPolicy, Rule
from target.config.base import Table, resolve_path
from target.config.faults import Fault

if TYPE_CHECKING:
    from target.config.model import Config

__all__ = ["AccessConfig", "AclConfig", "ChapConfig", "DiscoveryConfig", "access_faults", "build_policy"]

_Algorithm = Literal["md5", "sha1", "sha256", "sha3-256"]
_LUN = {"type": "integer", "minimum": 0, "maximum": MAX_LUN}
_LUN_MAP = {
    "anyOf": [
        {"type": "array", "items": _LUN, "minItems": 1, "uniqueItems": True},
        {"type": "object", "patternProperties": {"^[0-9]+$": _LUN}, "additionalProperties": False, "minProperties": 1},
    ]
}
_Pattern = Annotated[str, Field(min_length=1, max_length=223)]


def _lun_map(value: object) -> dict[int, int]:
    """``[0, 2]`` shows these LUNs under their own numbers, ``{ 0 = 2 }`` LUN 2 as LUN 0."""
    pairs: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(number, number) for number in value]
    luns: dict[int, int] = {}
    for shown, real in pairs:
        number = int(shown) if isinstance(shown, str) and shown.isascii() and shown.isdigit() else shown
        for each in (number, real):
            if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each <= MAX_LUN:
                raise UsageError(f"{each!r} is not a LUN number from 0 to {MAX_LUN}")
        assert isinstance(number, int)
        assert isinstance(real, int)
        luns[number] = real
    if not luns or len(luns) != len(pairs):
        raise UsageError("has to be a list of LUN numbers such as [0, 2], or a table such as { 0 = 2 }, none twice")
    if len(set(luns.values())) != len(luns):
        raise UsageError("shows one LUN under two numbers; keep one of them")
    return luns


class ChapConfig(Table):
    """``[chap.NAME]``: a CHAP user, ``user`` or else NAME, with its secret in a file or in the environment."""

    user: str | None = Field(default=None, min_length=1, max_length=255)
    secret_file: Annotated[
        Path | None, PlainValidator(resolve_path), WithJsonSchema({"type": "string", "minLength": 1})
    ] = None
    secret_env: str | None = Field(default=None, min_length=1, max_length=255)

    def load(self, name: str) -> ChapUser:
        """The user of the table ``name``.  Raises UsageError for a secret that is not there or too short."""
        secret = (
            Secret.from_file(self.secret_file) if self.secret_file else Secret.from_environment(self.secret_env or "")
        )
        return ChapUser(self.user or name, secret)


class AclConfig(Table):
    """``[[target.acl]]``: one rule; see :class:`target.access.Rule`.  ``chap`` and ``mutual`` are names of tables."""

    initiator: _Pattern
    allow: bool = True
    chap: tuple[str, ...] = Field(default=(), strict=False, max_length=256)
    mutual: str | None = None
    luns: Annotated[dict[int, int] | None, PlainValidator(_lun_map), WithJsonSchema(_LUN_MAP)] = None


class DiscoveryConfig(Table):
    """``[discovery]``: who may list the targets, by pattern, and with which proof."""

    initiators: tuple[_Pattern, ...] = Field(default=("*",), strict=False, min_length=1, max_length=256)
    chap: tuple[str, ...] = Field(default=(), strict=False, max_length=256)
    mutual: str | None = None


class AccessConfig(Table):
    """``[access]``: for all logins.  ``algorithms`` of CHAP in order of preference."""

    algorithms: tuple[_Algorithm, ...] = Field(
        default=("sha3-256", "sha256", "sha1", "md5"), strict=False, min_length=1, max_length=4
    )


def build_policy(config: Config) -> AccessPolicy:
    """The policy, its secrets read.  Raises UsageError."""
    users = {name: table.load(name) for name, table in config.chap.items()}
    targets = {
        target.name: [
            _rule(f"target[{index}].acl[{number}] {acl.initiator}", acl, users) for number, acl in enumerate(target.acl)
        ]
        for index, target in enumerate(config.target)
    }
    listing = config.discovery
    proof = _proof(listing, users)
    discovery = [Rule(name=f"discovery {pattern}", initiator=pattern, **proof) for pattern in listing.initiators]
    return AccessPolicy(
        targets=targets,
        discovery=discovery,
        algorithms=tuple(ALGORITHMS[name] for name in config.access.algorithms),
    )


def _rule(name: str, acl: AclConfig, users: Mapping[str, ChapUser]) -> Rule:
    return Rule(name=name, initiator=acl.initiator, allow=acl.allow, luns=acl.luns, **_proof(acl, users))


def _proof(table: AclConfig | DiscoveryConfig, users: Mapping[str, ChapUser]) -> dict[str, Any]:
    mutual = users[table.mutual] if table.mutual is not None else None
    return {"users": tuple(users[name] for name in table.chap), "mutual": mutual}


# Faults between tables


def access_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Names that stand for nothing, and keys that exclude or need each other, from the raw tables."""
    users = _tables(raw.get("chap"))
    for name, table in users.items():
        if ("secret_file" in table) == ("secret_env" in table):
            yield Fault(("chap", name), "needs secret_file or secret_env, and not both")
    discovery = raw.get("discovery")
    if isinstance(discovery, Mapping):
        yield from _proof_faults(("discovery",), discovery, users)
    portals = _tables(raw.get("portal"))
    targets = raw.get("target")
    for index, target in enumerate(targets if isinstance(targets, list) else ()):
        if isinstance(target, Mapping):
            yield from _target_faults(("target", index), target, users, portals)


def _target_faults(
    path: tuple[str | int, ...], target: Mapping[str, Any], users: Mapping[str, Any], portals: Mapping[str, Any]
) -> Iterator[Fault]:
    yield from _unknown((*path, "portals"), target.get("portals"), portals, "portal")
    numbers = (lun.get("id") for lun in _list(target.get("lun")) if isinstance(lun, Mapping))
    luns = {number for number in numbers if isinstance(number, int)}
    for number, acl in enumerate(_list(target.get("acl"))):
        if not isinstance(acl, Mapping):
            continue
        where = (*path, "acl", number)
        yield from _proof_faults(where, acl, users)
        shown = acl.get("luns")
        for real in shown.values() if isinstance(shown, Mapping) else _list(shown):
            if type(real) is int and 0 <= real <= MAX_LUN and real not in luns:
                yield Fault(
                    (*where, "luns"), f"names LUN {real}, which this target does not have; add it or leave it out"
                )


def _proof_faults(path: tuple[str | int, ...], table: Mapping[str, Any], users: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _unknown((*path, "chap"), table.get("chap"), users, "chap")
    mutual = table.get("mutual")
    if mutual is None:
        return
    yield from _unknown((*path, "mutual"), [mutual], users, "chap")
    if not table.get("chap"):
        yield Fault(
            (*path, "mutual"), "is of no use without chap: only who proves itself may ask for a proof; add chap"
        )


def _unknown(path: tuple[str | int, ...], names: object, known: Mapping[str, Any], table: str) -> Iterator[Fault]:
    for name in _list(names):
        if isinstance(name, str) and name not in known:
            yield Fault(path, f"names {name!r}, but there is no [{table}.{name}]; add it or correct the name")


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _tables(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {name: table for name, table in value.items() if isinstance(table, Mapping)}
