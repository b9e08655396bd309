"""Tests of target.registry: who may log in, and which sessions there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from iser.errors import LoginError
from iser.login import (
    ALL_TARGETS,
    AdmissionRequest,
    LoginResult,
    NegotiatedParameters,
    Redirection,
    TargetAddress,
)
from iser.login.result import DISCOVERY, NORMAL
from target.access import AccessPolicy, Grant, Rule
from target.backends.memory import MemoryBackend
from target.registry import ALL_NUMBERS, Elsewhere, Place, Registry, ServedTarget
from target.scsi import Identity, LogicalUnit, TargetDevice
from target.session import Session

A, B = "iqn.2026-11.test:a", "iqn.2026-11.test:b"
HERE = Place("both", 1)
ME = "iqn.2026-11.test:me"


def request(**changes: Any) -> AdmissionRequest:
    base: dict[str, Any] = {
        "initiator_name": ME,
        "initiator_alias": "",
        "isid": bytes(6),
        "tsih": 0,
        "cid": 0,
        "target_name": A,
        "session_type": NORMAL,
        "transport": "iser",
    }
    return AdmissionRequest(**(base | changes))


def registry(
    max_sessions: int = 2,
    policy: AccessPolicy | None = None,
    per_initiator: int = 0xFFFF,
    numbers: range = ALL_NUMBERS,
) -> Registry:
    def served(name: str, portal: str) -> ServedTarget:
        unit = LogicalUnit(MemoryBackend(4096), Identity.derive(name, 0))
        return ServedTarget(TargetDevice(name, {0: unit}), f"alias of {name[-1]}", frozenset({portal, "both"}))

    return Registry([served(A, "one"), served(B, "two")], max_sessions, policy, per_initiator, numbers)


class Stand:
    """Of a session, what a registry looks at."""

    def __init__(self, asked: AdmissionRequest, tsih: int) -> None:
        params = NegotiatedParameters(
            initiator_name=asked.initiator_name, target_name=asked.target_name, session_type=asked.session_type
        )
        self.login = LoginResult(
            params=params, isid=asked.isid, tsih=tsih, cid=0, cmd_sn=1, stat_sn=1, exp_stat_sn=1, max_cmd_sn=1,
            new_session=True,
        )  # fmt: skip


def enter(into: Registry, asked: AdmissionRequest) -> tuple[Session, Session | None]:
    """Go through a login; returns the session and the one that it replaces."""
    into.admit(asked, HERE)
    session: Any = Stand(asked, into.grant_tsih(asked))
    nexus = into.targets[asked.target_name].device.attach("x") if asked.session_type == NORMAL else None
    return session, into.enter(session, nexus)


def refusal(into: Registry, asked: AdmissionRequest) -> tuple[int, int]:
    with pytest.raises(LoginError) as caught:
        enter(into, asked)
    return caught.value.status_class, caught.value.status_detail


def test_a_target_is_found_by_its_name() -> None:
    grant = registry().admit(request(target_name=B), HERE._replace(group=2))
    assert isinstance(grant, Grant)
    assert (grant.portal_group_tag, grant.target_alias) == (2, "alias of b")
    assert refusal(registry(), request(target_name="iqn.2026-11.test:none")) == (2, 3)


def test_nobody_gets_in_while_the_target_shuts_down() -> None:
    shutting = registry()
    shutting.draining = True
    assert refusal(shutting, request()) == (3, 1)
    assert refusal(shutting, request(session_type=DISCOVERY, target_name="")) == (3, 1)


def test_there_are_as_many_sessions_as_were_allowed_of_any_kind() -> None:
    full = registry()
    first, _ = enter(full, request())
    enter(full, request(isid=b"123456", session_type=DISCOVERY, target_name=""))
    assert refusal(full, request(isid=b"234567")) == (3, 2)
    # A discovery session replaces nobody, whatever its ISID.
    assert refusal(full, request(isid=b"123456", session_type=DISCOVERY, target_name="")) == (3, 2)
    full.leave(first)
    enter(full, request(isid=b"234567"))


def test_a_session_of_the_same_nexus_is_replaced_even_when_there_are_no_more() -> None:
    full = registry()
    old, none = enter(full, request())
    enter(full, request(isid=b"123456"))
    assert none is None
    new, replaced = enter(full, request())
    assert replaced is old
    full.leave(old)
    assert set(full.sessions.values()) >= {new}
    assert list(full.targets[A].sessions).count(new) == 1
    assert enter(full, request())[1] is new


def test_the_session_replaced_is_the_newest_of_its_nexus_also_while_older_ones_end() -> None:
    several = registry(max_sessions=9)
    first, _ = enter(several, request())
    second, _ = enter(several, request())
    third, replaced = enter(several, request())
    assert replaced is second
    for session in (first, second, first, third):
        several.leave(session)
    assert enter(several, request())[1] is None


def test_a_login_looks_at_no_session_but_its_own_however_many_there_are() -> None:
    class Watched(Stand):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            Watched.looks += name == "login"
            return super().__getattribute__(name)

    many = registry(max_sessions=500)
    counts = []
    for number in range(200):
        asked = request(isid=number.to_bytes(6, "big"))
        session: Any = Watched(asked, many.grant_tsih(asked))
        before = Watched.looks
        many.enter(session, many.targets[A].device.attach("x"))
        many.grant_tsih(request(isid=b"abcdef"))
        counts.append(Watched.looks - before)
    assert max(counts) <= 1


@pytest.mark.parametrize("change", [{"isid": b"abcdef"}, {"initiator_name": "iqn.2026-11.test:he"}, {"target_name": B}])
def test_a_session_of_another_nexus_is_not_replaced(change: dict[str, Any]) -> None:
    several = registry()
    enter(several, request())
    assert enter(several, request(**change))[1] is None


def test_a_second_connection_is_refused() -> None:
    one = registry()
    session, _ = enter(one, request())
    tsih = session.login.tsih
    assert refusal(one, request(tsih=tsih)) == (2, 6)
    assert refusal(one, request(tsih=tsih + 1)) == (2, 0x0A)
    assert refusal(one, request(tsih=tsih, initiator_name="iqn.2026-11.test:he")) == (2, 0x0A)


def test_a_granted_number_is_held_until_the_login_came_to_nothing() -> None:
    one = registry(max_sessions=1)
    tsih = one.grant_tsih(request())
    assert refusal(one, request()) == (3, 2)
    one.forget(tsih)
    assert one.grant_tsih(request()) == tsih + 1


def test_numbers_go_round_and_pass_over_those_in_use() -> None:
    one = registry(max_sessions=0xFFFF)
    held = one.grant_tsih(request())
    last = 0
    for _ in range(0xFFFE):
        last = one.grant_tsih(request())
        one.forget(last)
    assert last == 0xFFFF
    assert held == 1
    assert one.grant_tsih(request()) == 2


def test_a_full_set_of_numbers_is_out_of_resources_and_no_endless_search() -> None:
    one = registry(max_sessions=0xFFFF)
    enter(one, request())
    for _ in range(0xFFFE):
        one.grant_tsih(request())
    assert refusal(one, request()) == (3, 2)


def test_leaving_twice_is_no_error_and_detaches_the_nexus() -> None:
    one = registry()
    session, _ = enter(one, request())
    one.leave(session)
    one.leave(session)
    assert (one.sessions, one.targets[A].sessions) == ({}, {})


PLACES = [
    Place("one", 1, TargetAddress("1.2.3.4", 3260)),
    Place("two", 2, TargetAddress("1.2.3.5", 3260)),
    Place("both", 3, TargetAddress("1.2.3.6", 3260)),
]


def listed(from_: Registry, wanted: str = ALL_TARGETS, initiator: str = ME) -> dict[str, list[str]]:
    return {record.name: list(map(str, record.addresses)) for record in from_.records(wanted, PLACES, initiator)}


def test_targets_are_listed_with_their_portals_and_the_groups_of_these() -> None:
    assert listed(registry()) == {
        A: ["1.2.3.4:3260,1", "1.2.3.6:3260,3"],
        B: ["1.2.3.5:3260,2", "1.2.3.6:3260,3"],
    }
    assert list(listed(registry(), B)) == [B]
    assert listed(registry(), "iqn.2026-11.test:none") == {}


def test_a_target_is_listed_to_those_that_it_would_let_in() -> None:
    policy = AccessPolicy(targets={A: [Rule(name="rule", initiator=ME)]})
    assert list(listed(registry(policy=policy))) == [A, B]
    assert list(listed(registry(policy=policy), initiator="iqn.2026-11.test:he")) == [B]


def test_a_target_is_not_there_at_a_portal_of_others() -> None:
    with pytest.raises(LoginError, match="0203"):
        registry().admit(request(), Place("two", 2))


def test_the_policy_decides() -> None:
    closed = registry(policy=AccessPolicy(targets={A: [Rule(name="nobody", allow=False)]}))
    assert refusal(closed, request()) == (2, 2)
    enter(closed, request(target_name=B))


def test_one_initiator_has_no_more_sessions_than_allowed() -> None:
    limited = registry(max_sessions=9, per_initiator=2)
    first, _ = enter(limited, request())
    enter(limited, request(isid=b"abcdef"))
    assert refusal(limited, request(isid=b"bcdefg")) == (3, 2)
    enter(limited, request(isid=b"abcdef"))  # in place of its own
    enter(limited, request(initiator_name="iqn.2026-11.test:he"))
    limited.leave(first)


def test_the_same_port_in_another_portal_group_is_another_nexus() -> None:
    several = registry()
    one, _ = enter(several, request())
    other: Any = Stand(request(), several.grant_tsih(request()))
    params = replace(other.login.params, target_portal_group_tag=2)
    other.login = replace(other.login, params=params)
    assert several.enter(other, None) is None
    assert one in several.sessions.values()


def test_a_rule_with_a_lun_map_shows_a_device_of_its_own() -> None:
    target = registry().targets[A]
    assert target.view(Rule(name="all")) is target.device
    mapped = Rule(name="some", luns={3: 0})
    assert target.view(mapped) is target.view(mapped)
    assert list(target.view(mapped).luns) == [3]


# Targets of other processes

C = "iqn.2026-11.test:c"


def test_a_target_of_another_process_is_where_that_listens() -> None:
    here = HERE._replace(address=TargetAddress("192.0.2.1"))
    rules = AccessPolicy(targets={C: [Rule(name="r", initiator=ME)]})
    one = registry(policy=rules)
    one.elsewhere = {C: Elsewhere(frozenset({"both"}), {"both": 4711, "one": 4712})}
    assert one.admit(request(target_name=C), here) == Redirection(TargetAddress("192.0.2.1", 4711))
    assert one.admit(request(target_name=C, tsih=9), here) == Redirection(TargetAddress("192.0.2.1", 4711))
    for asked, place, status in (
        (request(target_name=C, initiator_name="iqn.2026-11.test:you"), here, (2, 2)),
        (request(target_name=C), here._replace(name="one"), (2, 3)),
    ):
        with pytest.raises(LoginError) as caught:
            one.admit(asked, place)
        assert (caught.value.status_class, caught.value.status_detail) == status
    found = {record.name: record.addresses for record in one.records(ALL_TARGETS, [HERE], ME)}
    assert found.keys() == {A, B, C}
    assert found[C] == (TargetAddress("", tpgt=1),)  # the portal, not the process's own port
    assert one.records(C, [HERE], "iqn.2026-11.test:you") == []
    one.draining = True
    with pytest.raises(LoginError, match="shutting down"):
        one.admit(request(target_name=C), here)


def test_sessions_get_the_numbers_that_are_ours_and_no_others() -> None:
    own = registry(max_sessions=9, numbers=range(2, 9, 3))
    sessions = [enter(own, request(isid=bytes((number,)) * 6))[0] for number in range(3)]
    assert [session.login.tsih for session in sessions] == [2, 5, 8]
    assert refusal(own, request(isid=b"xxxxxx")) == (3, 2)
    own.leave(sessions[1])
    assert enter(own, request(isid=b"xxxxxx"))[0].login.tsih == 5
