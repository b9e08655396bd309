"""Rules: which one decides, what it asks for, and what the audit says of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LoginError, UsageError
from iser.login import DISCOVERY, NORMAL, AdmissionRequest
from iser.login.chap import ChapUser, TargetChap
from iser.secret import Secret
from target.access import AccessPolicy, Rule, audit_allowed, audit_denied, audit_redirected, matches

ALICE = ChapUser("alice", Secret(b"alice's own secret"))
US = ChapUser("us", Secret(b"our very own secret"))
DISK = "iqn.2026-11.test:disk"


def request(initiator: str = "iqn.2026-11.test:a", target: str = DISK, kind: str = NORMAL) -> AdmissionRequest:
    return AdmissionRequest(initiator, "", bytes(6), 0, 1, target, kind, "tcp")


def policy(*rules: Rule, **more: Any) -> AccessPolicy:
    return AccessPolicy(targets={DISK: rules}, **more)


def test_a_target_without_rules_is_open() -> None:
    grant = AccessPolicy().admit(request(), tag=3, alias="a disk")
    assert (grant.auth, grant.portal_group_tag, grant.target_alias, grant.rule.name) == (
        None,
        3,
        "a disk",
        "open to all",
    )


def test_the_first_rule_that_fits_decides() -> None:
    rules = policy(
        Rule(name="one", initiator="iqn.2026-11.test:bad*", allow=False),
        Rule(name="two", initiator="iqn.2026-11.test:*"),
        Rule(name="three", allow=False),
    )
    assert rules.admit(request()).rule.name == "two"
    with pytest.raises(LoginError, match=r"rule one of .* keeps .*bad1 out .*0202"):
        rules.admit(request("iqn.2026-11.test:bad1"))
    with pytest.raises(LoginError, match="rule three"):
        rules.admit(request("iqn.2026-11.other:a"))


def test_where_no_rule_fits_nobody_gets_in() -> None:
    with pytest.raises(LoginError, match=r"no rule of .*:disk lets .* in .*0202"):
        policy(Rule(name="one", initiator="eui.*")).admit(request())


def test_a_rule_with_users_asks_for_chap() -> None:
    grant = policy(Rule(name="one", users=(ALICE,), mutual=US)).admit(request())
    assert isinstance(grant.auth, TargetChap)
    assert grant.auth.methods == ("CHAP",)
    assert grant.user is None


def test_each_login_has_a_challenge_of_its_own() -> None:
    rules = policy(Rule(name="one", users=(ALICE,)))
    assert rules.admit(request()).auth is not rules.admit(request()).auth


def test_users_that_cannot_be_are_an_error_of_the_configuration() -> None:
    with pytest.raises(UsageError, match="its own"):
        policy(Rule(name="one", users=(ALICE,), mutual=US._replace(secret=ALICE.secret)))


def test_discovery_has_rules_of_its_own() -> None:
    rules = AccessPolicy(discovery=[Rule(name="d", initiator="iqn.2026-11.test:a", users=(ALICE,))])
    assert rules.admit(request(kind=DISCOVERY)).auth
    with pytest.raises(LoginError, match="no rule of discovery"):
        rules.admit(request("iqn.2026-11.test:b", kind=DISCOVERY))


def test_discovery_tells_only_of_targets_that_would_let_in() -> None:
    rules = policy(Rule(name="one", initiator="iqn.2026-11.test:a"))
    assert rules.shows(DISK, "iqn.2026-11.test:a")
    assert not rules.shows(DISK, "iqn.2026-11.test:b")
    assert rules.shows("iqn.2026-11.test:another", "iqn.2026-11.test:b")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "iqn.2026-11.test:a", True),
        ("iqn.2026-11.test:?", "iqn.2026-11.test:a", True),
        ("iqn.2026-11.test:?", "iqn.2026-11.test:ab", False),
        ("iqn.2026-11.TEST:a", "iqn.2026-11.test:A", True),
        ("iqn.2026-11.test", "iqn.2026-11.test:a", False),
        ("iqn.*:a", "iqn.2026-11.test:a", True),
        ("iqn.[0-9]*", "iqn.2026-11.test:a", False),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="abc.-:[(\\^$", max_size=20))
def test_a_name_without_wildcards_fits_itself_only(name: str) -> None:
    assert matches(name, name)
    assert not matches(name, name + "x")


def test_a_session_goes_on_under_rules_that_let_it_in_as_it_came() -> None:
    name = "iqn.2026-11.test:a"
    assert AccessPolicy().keeps(DISK, name, None)
    assert policy(Rule(name="all")).keeps(DISK, name, None) == Rule(name="all")
    assert policy(Rule(name="all")).keeps(DISK, name, "alice")
    assert policy(Rule(name="no", allow=False)).keeps(DISK, name, None) is None
    assert policy(Rule(name="he", initiator="iqn.he")).keeps(DISK, name, None) is None
    proof = policy(Rule(name="proof", users=(ALICE,)))
    assert proof.keeps(DISK, name, None) is None
    assert proof.keeps(DISK, name, "bob") is None
    assert proof.keeps(DISK, name, "alice")


def test_the_audit_is_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iser.audit")
    rules = policy(Rule(name="acl[0] iqn.*", users=(ALICE,)))
    audit_allowed(request(), rules.admit(request()), "10.0.0.1:999")
    audit_denied(request("iqn.x\ny"), None, "10.0.0.1:999", LoginError("no\nway", 2, 2))
    audit_denied(None, None, "10.0.0.1:999", LoginError("who?", 2, 7))
    audit_redirected(request(), "10.0.0.1:999", LoginError(f"{DISK} is at 10.0.0.9:1", 1, 1))
    assert [record.getMessage() for record in caplog.records] == [
        f"allowed initiator=iqn.2026-11.test:a address=10.0.0.1:999 transport=tcp target={DISK} as=- rule=acl[0] iqn.*",
        f"denied initiator=iqn.x?y address=10.0.0.1:999 transport=tcp target={DISK} rule=-: no?way (login status 0202)",
        "denied address=10.0.0.1:999 rule=-: who? (login status 0207)",
        f"redirected initiator=iqn.2026-11.test:a address=10.0.0.1:999 transport=tcp target={DISK}: "
        f"{DISK} is at 10.0.0.9:1 (login status 0101)",
    ]
