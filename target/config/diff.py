"""What would change from one configuration to another, and which sessions a reload would touch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

from target.config.access import AclConfig
from target.config.model import Config, LunConfig, PortalConfig, TargetConfig

__all__ = ["Change", "LunFate", "diff", "lun_fate"]

_T = TypeVar("_T")

#: Which sessions a change of these tables touches; those of targets and portals say it for each key.
_TABLES: Mapping[str, str] = {
    "limits": "new sessions only",
    "rnic": "portals opened from now on",
    "discovery": "new logins only",
    "access": "new logins only",
}
#: Limits that are not of new sessions.
_LIMITS: Mapping[str, str] = {"max_transfer": "LUNs opened from now on", "busy_poll_us": "every session, at once"}
_AFTER_RESTART = "nothing before a restart"
_NONE = "no session"


class Change(NamedTuple):
    """One difference; ``detail`` says what it is, ``touches`` which sessions notice it."""

    verb: Literal["add", "remove", "change"]
    what: str
    detail: str
    touches: str

    def __str__(self) -> str:
        return f"{self.verb} {self.what}: {self.detail}; touches {self.touches}"


class LunFate(Enum):
    """What a reload does with a LUN that both configurations have."""

    KEEP = auto()
    RESIZE = auto()
    REPLACE = auto()


def lun_fate(old: LunConfig, new: LunConfig) -> LunFate:
    """A size alone is changed while the LUN is served, where the backend can; all else takes opening it anew."""
    if old == new:
        return LunFate.KEEP
    sized = old.backend != "nbd" and not (old.backend == "memory" and old.read_only) and new.size is not None
    return LunFate.RESIZE if sized and old.model_copy(update={"size": new.size}) == new else LunFate.REPLACE


def diff(old: Config, new: Config) -> list[Change]:
    """Every difference, none for configurations that serve the same.

    Neither the order of portals, targets and LUNs counts nor how a value is written; that of rules does.
    """
    changes = [*_portals(old.portal, new.portal)]
    before = {target.name: target for target in old.target}
    after = {target.name: target for target in new.target}
    for name, one, two in _matched(before, after):
        if two is None:
            changes.append(Change("remove", f"target {name}", _with_luns(before[name]), f"sessions of {name}: ended"))
        elif one is None:
            changes.append(Change("add", f"target {name}", _with_luns(two), _NONE))
        else:
            changes += _target(one, two)
    for key in Config.model_fields:
        one, two = getattr(old, key), getattr(new, key)
        if isinstance(one, BaseModel):
            changes += _table(key, one, two)
        elif key not in ("portal", "target", "chap") and one != two:
            changes.append(Change("change", key, f"{_shown(one)} -> {_shown(two)}", _AFTER_RESTART))
    for name, was, now in _matched(old.chap, new.chap):
        changes += _entry(f"chap {name}", was, now, "new logins only")
    return changes


def _matched(old: Mapping[str, _T], new: Mapping[str, _T]) -> Iterator[tuple[str, _T | None, _T | None]]:
    """Each key with its two values, first those that go, then the others in their new order."""
    yield from ((name, value, None) for name, value in old.items() if name not in new)
    yield from ((name, old.get(name), value) for name, value in new.items())


def _portals(old: Mapping[str, PortalConfig], new: Mapping[str, PortalConfig]) -> Iterator[Change]:
    for name, was, now in _matched(old, new):
        ended = f"sessions through {name}: ended"
        if was and now:
            if keys := _keys(was, now):
                yield Change("change", f"portal {name}", keys, ended)
        elif was:
            yield Change("remove", f"portal {name}", str(was.listen), ended)
        elif now:
            yield Change("add", f"portal {name}", f"{now.listen}, group {now.group}", _NONE)


def _with_luns(target: TargetConfig) -> str:
    return f"with {len(target.lun)} LUN{'s' * (len(target.lun) != 1)}"


def _target(old: TargetConfig, new: TargetConfig) -> Iterator[Change]:
    name = new.name
    if old.alias != new.alias:
        yield Change("change", f"target {name}", f"alias {_shown(old.alias)} -> {_shown(new.alias)}", "new logins only")
    if set(old.portals) != set(new.portals):
        was, now = (", ".join(sorted(portals)) or "all" for portals in (old.portals, new.portals))
        yield Change("change", f"target {name}", f"portals {was} -> {now}", f"sessions of {name} elsewhere: ended")
    if old.worker != new.worker:
        workers = f"worker {_shown(old.worker)} -> {_shown(new.worker)}"
        ended = f"sessions of {name}: ended where it has to move, and what it holds in memory is lost"
        yield Change("change", f"target {name}", workers, ended)
    yield from _luns(name, {lun.id: lun for lun in old.lun}, {lun.id: lun for lun in new.lun})
    yield from _rules(name, old.acl, new.acl)


def _luns(target: str, old: Mapping[int, LunConfig], new: Mapping[int, LunConfig]) -> Iterator[Change]:
    told = f"sessions of {target} that see it: told that the LUNs changed"
    for number in sorted(old.keys() | new.keys()):
        what, was, now = f"LUN {number} of {target}", old.get(number), new.get(number)
        if was and now:
            fate = lun_fate(was, now)
            if fate is LunFate.RESIZE:
                touches = f"sessions of {target} that see it: told that the capacity changed"
                yield Change("change", what, _keys(was, now), touches)
            elif fate is LunFate.REPLACE:
                lost = "; opened anew, what it holds in memory is lost" if was.backend == "memory" else "; opened anew"
                yield Change("change", what, _keys(was, now) + lost, told)
        elif was:
            yield Change("remove", what, _store(was), told)
        elif now:
            yield Change("add", what, _store(now), told)


def _store(lun: LunConfig) -> str:
    place = lun.path or lun.uri
    size = f" of {lun.size} bytes" if lun.size is not None else ""
    return f"{lun.backend}{f' {place}' if place else ''}{size}"


def _rules(target: str, old: Sequence[AclConfig], new: Sequence[AclConfig]) -> Iterator[Change]:
    """By their order, because the first that fits decides; numbers are those of the list that a rule is in."""
    touches = f"sessions of {target} that the rules let in no more: ended, and that see other LUNs: told"
    if bool(old) != bool(new):
        words = ("open to everybody", "only whom a rule lets in")
        yield Change("change", f"target {target}", "{} -> {}".format(*words[:: 1 if new else -1]), touches)
    # By text: a rule with a LUN map cannot be hashed.
    matcher = SequenceMatcher(None, list(map(repr, old)), list(map(repr, new)), autojunk=False)
    for tag, first, last, start, end in matcher.get_opcodes():
        if tag == "equal":
            continue
        gone, come = list(range(first, last)), list(range(start, end))
        while gone and come and old[gone[0]].initiator == new[come[0]].initiator:
            was, now = gone.pop(0), come.pop(0)
            yield Change(
                "change", f"rule {now} of {target}", f"{new[now].initiator}: {_keys(old[was], new[now])}", touches
            )
        yield from (Change("remove", f"rule {number} of {target}", _rule(old[number]), touches) for number in gone)
        yield from (Change("add", f"rule {number} of {target}", _rule(new[number]), touches) for number in come)


def _rule(rule: AclConfig) -> str:
    return f"{rule.initiator} {'allowed' if rule.allow else 'denied'}"


def _table(name: str, old: BaseModel, new: BaseModel) -> Iterator[Change]:
    for key in type(new).model_fields:
        was, now = getattr(old, key), getattr(new, key)
        if was != now:
            touches = _LIMITS.get(key) or _TABLES.get(name, _AFTER_RESTART)
            yield Change("change", f"{name}.{key}", f"{_shown(was)} -> {_shown(now)}", touches)


def _entry(what: str, old: BaseModel | None, new: BaseModel | None, touches: str) -> Iterator[Change]:
    if old and new:
        if keys := _keys(old, new):
            yield Change("change", what, keys, touches)
    elif old:
        yield Change("remove", what, "no user any more", touches)
    else:
        yield Change("add", what, "a user", touches)


def _keys(old: BaseModel, new: BaseModel) -> str:
    """``key was -> is`` of every key that differs; empty for none."""
    pairs = ((key, getattr(old, key), getattr(new, key)) for key in type(new).model_fields)
    return ", ".join(f"{key} {_shown(was)} -> {_shown(now)}" for key, was, now in pairs if was != now)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) is tuple:
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{key} = {_shown(entry)}" for key, entry in value if entry is not None) + "}"
    return str(value)
