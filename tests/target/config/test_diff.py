"""Tests of target.config.diff: nothing is missed, nothing is told that is not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from target.config import Config
from target.config.diff import LunFate, diff, lun_fate

NAMES = ("iqn.2026-11.test:a", "iqn.2026-11.test:b", "iqn.2026-11.test:c")


def config(**tables: Any) -> Config:
    base: dict[str, Any] = {
        "portal": {"p": {"listen": "iser://127.0.0.1:0"}},
        "target": [{"name": NAMES[0], "lun": [{"id": 0, "backend": "memory", "size": "1M"}]}],
    }
    return Config.model_validate(base | tables, context=Path("/nowhere"))


def lines(old: Config, new: Config) -> list[str]:
    return list(map(str, diff(old, new)))


_luns = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(0, 3),
            "backend": st.just("file"),
            "path": st.sampled_from(["x", "y"]),
            "size": st.sampled_from([1 << 20, 2 << 20]),
            "read_only": st.booleans(),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda lun: str(lun["id"]),
)
_acl = st.lists(
    st.fixed_dictionaries(
        {"initiator": st.sampled_from(["*", "iqn.x"]), "allow": st.booleans()}, optional={"luns": st.just([0])}
    ),
    max_size=3,
)
_targets = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(NAMES),
            "lun": _luns,
            "acl": _acl,
            "alias": st.sampled_from(["", "x"]),
            "portals": st.lists(st.sampled_from(["p", "q"]), max_size=2, unique=True),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda target: str(target["name"]),
)
_configs = st.fixed_dictionaries(
    {
        "target": _targets,
        "portal": st.dictionaries(
            st.sampled_from(["p", "q"]),
            st.fixed_dictionaries(
                {"listen": st.sampled_from(["iser://h:1", "iscsi://h:1"]), "group": st.integers(1, 2)}
            ),
            min_size=1,
        ),
        "limits": st.fixed_dictionaries({}, optional={"queue_depth": st.integers(1, 3)}),
        "chap": st.dictionaries(
            st.sampled_from(["u", "v"]), st.fixed_dictionaries({"secret_env": st.sampled_from(["A", "B"])})
        ),
    }
).map(lambda tables: config(**tables))


def served(settings_: Config) -> Any:
    """What counts of a configuration."""
    targets = {}
    for target in settings_.target:
        luns = {lun.id: lun for lun in target.lun}
        targets[target.name] = (target.alias, frozenset(target.portals), luns, target.acl)
    return settings_.portal, targets, settings_.limits, settings_.chap


@given(_configs, _configs)
@settings(max_examples=150, deadline=None)
def test_there_is_a_line_exactly_where_something_differs(old: Config, new: Config) -> None:
    assert bool(diff(old, new)) == (served(old) != served(new))
    assert diff(old, old) == []


@given(_configs, _configs)
@settings(max_examples=100, deadline=None)
def test_what_comes_one_way_goes_the_other(old: Config, new: Config) -> None:
    there = Counter((change.verb, change.what) for change in diff(old, new) if not change.what.startswith("rule"))
    mirror = {"add": "remove", "remove": "add", "change": "change"}
    back = Counter(
        (mirror[change.verb], change.what) for change in diff(new, old) if not change.what.startswith("rule")
    )
    assert there == back


@given(_configs, _configs)
@settings(max_examples=100, deadline=None)
def test_rules_added_and_removed_add_up(old: Config, new: Config) -> None:
    before = {target.name: target.acl for target in old.target}
    for target in new.target:
        if target.name in before:
            rules = [change for change in diff(old, new) if change.what.endswith(f" of {target.name}")]
            verbs = Counter(change.verb for change in rules if change.what.startswith("rule"))
            assert len(before[target.name]) + verbs["add"] - verbs["remove"] == len(target.acl)


def test_the_order_of_tables_does_not_count() -> None:
    lun = {"backend": "memory", "size": "1M"}
    one, two = ({"name": name, "lun": [lun | {"id": 1}, lun | {"id": 0}]} for name in NAMES[:2])
    turned = [two, one | {"lun": [lun | {"id": 0}, lun | {"id": 1, "size": 1 << 20}]}]
    assert diff(config(target=[one, two]), config(target=turned)) == []


def test_words() -> None:
    a, b = NAMES[:2]
    old = config(
        portal={"p": {"listen": "iser://h:1"}, "q": {"listen": "iser://h:2"}},
        target=[
            {
                "name": a,
                "lun": [{"id": n, "backend": "memory", "size": 4096} for n in (0, 1)],
                "acl": [{"initiator": "x*"}],
            }
        ],
    )
    new = config(
        portal={"p": {"listen": "iser://h:1", "group": 2}, "r": {"listen": "iscsi://h:2"}},
        target=[
            {
                "name": a,
                "alias": "A",
                "lun": [
                    {"id": 0, "backend": "memory", "size": 4096, "block_size": 4096},
                    {"id": 1, "backend": "memory", "size": 8192},
                    {"id": 7, "backend": "file", "path": "f", "size": 512},
                ],
                "acl": [{"initiator": "y*"}, {"initiator": "x*"}],
            },
            {"name": b, "lun": [{"id": 0, "backend": "memory", "size": 4096}]},
        ],
        limits={"queue_depth": 8, "max_transfer": "1M", "busy_poll_us": 0},
    )
    told = f"touches sessions of {a} that see it: told that the LUNs changed"
    capacity = f"touches sessions of {a} that see it: told that the capacity changed"
    rules = f"touches sessions of {a} that the rules let in no more: ended, and that see other LUNs: told"
    assert lines(old, new) == [
        "remove portal q: iser://h:2; touches sessions through q: ended",
        "change portal p: group 1 -> 2; touches sessions through p: ended",
        "add portal r: iscsi://h:2, group 1; touches no session",
        f"change target {a}: alias unset -> A; touches new logins only",
        f"change LUN 0 of {a}: block_size 512 -> 4096; opened anew, what it holds in memory is lost; {told}",
        f"change LUN 1 of {a}: size 4096 -> 8192; {capacity}",
        f"add LUN 7 of {a}: file /nowhere/f of 512 bytes; {told}",
        f"add rule 0 of {a}: y* allowed; {rules}",
        f"add target {b}: with 1 LUN; touches no session",
        "change limits.queue_depth: 64 -> 8; touches new sessions only",
        "change limits.max_transfer: 8388608 -> 1048576; touches LUNs opened from now on",
        "change limits.busy_poll_us: 200 -> 0; touches every session, at once",
    ]


def test_workers() -> None:
    lun = [{"id": 0, "backend": "memory", "size": 4096}]
    portals = {"p": {"listen": "iscsi://h:1"}}
    old = config(portal=portals, target=[{"name": NAMES[0], "lun": lun}], workers=2)
    new = config(
        portal=portals, target=[{"name": NAMES[0], "lun": lun, "worker": 2}], workers=3, worker_ports="3300-3309"
    )
    moved = "ended where it has to move, and what it holds in memory is lost"
    assert lines(old, new) == [
        f"change target {NAMES[0]}: worker unset -> 2; touches sessions of {NAMES[0]}: {moved}",
        "change workers: 2 -> 3; touches nothing before a restart",
        "change worker_ports: unset -> 3300-3309; touches nothing before a restart",
    ]


def test_the_first_and_the_last_rule_open_and_close_a_target() -> None:
    lun = [{"id": 0, "backend": "memory", "size": 4096}]
    none, some = (config(target=[{"name": NAMES[0], "lun": lun, "acl": acl}]) for acl in ([], [{"initiator": "x"}]))
    assert "open to everybody -> only whom a rule lets in" in lines(none, some)[0]
    assert "only whom a rule lets in -> open to everybody" in lines(some, none)[0]


def test_a_size_alone_is_changed_in_place_where_the_backend_can() -> None:
    def fate(backend: dict[str, Any], **change: Any) -> LunFate:
        old, new = ({"id": 0, "size": 4096} | backend | extra for extra in ({}, change))
        one, two = (config(target=[{"name": NAMES[0], "lun": [lun]}]).target[0].lun[0] for lun in (old, new))
        return lun_fate(one, two)

    file = {"backend": "file", "path": "f"}
    assert fate(file) is LunFate.KEEP
    assert fate(file, size=8192) is LunFate.RESIZE
    assert fate(file, size=8192, product="X") is LunFate.REPLACE
    assert fate({"backend": "memory"}, size=8192) is LunFate.RESIZE
    assert fate({"backend": "memory", "read_only": True}, size=8192) is LunFate.REPLACE
