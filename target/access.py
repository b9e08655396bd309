"""Who may log in to what, how they prove who they are, and which LUNs they see; the same over every transport.

Rules are tried in order, and the first whose pattern fits the initiator's name decides.  Where there are rules and none
fits, nobody gets in; a target without rules is open to everybody.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from iser.errors import LoginError
from iser.login import DISCOVERY, Admission, AdmissionRequest, LoginStatus, TargetAuth, login_error
from iser.login.chap import DEFAULT_ALGORITHMS, ChapAlgorithm, ChapUser, TargetChap

__all__ = ["OPEN", "AccessPolicy", "Grant", "Rule", "audit_allowed", "audit_denied", "audit_redirected", "matches"]

_LONGEST: Final = 256  # characters of a peer's own text in an audit line

audit = logging.getLogger("iser.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.  ``name`` is what the audit says; ``initiator`` a pattern with ``*`` and ``?``.

    With ``users`` an initiator has to prove to be one of them; ``mutual`` is whom we prove to be to who asks.  ``luns``
    maps the LUN numbers that the initiator sees to ours; None shows all as they are.
    """

    name: str
    initiator: str = "*"
    allow: bool = True
    users: tuple[ChapUser, ...] = ()
    mutual: ChapUser | None = None
    luns: Mapping[int, int] | None = None

    def auth(self, algorithms: Sequence[ChapAlgorithm]) -> TargetAuth | None:
        """What a login under this rule has to pass; None for nothing.  Raises UsageError for users that cannot be."""
        return TargetChap(self.users, self.mutual, algorithms) if self.users else None


#: For targets, and for discovery, without rules.
OPEN: Final = Rule(name="open to all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Admission):
    """A login that may go on under ``rule``."""

    rule: Rule = OPEN

    @property
    def user(self) -> str | None:
        """Who the initiator proved to be."""
        return self.auth.user if isinstance(self.auth, TargetChap) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """The rules of each target by its name, and those of discovery.  ``algorithms`` are CHAP's, best first."""

    targets: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    discovery: Sequence[Rule] = ()
    algorithms: Sequence[ChapAlgorithm] = DEFAULT_ALGORITHMS

    def __post_init__(self) -> None:
        for rules in (self.discovery, *self.targets.values()):
            for rule in rules:
                rule.auth(self.algorithms)  # so that what cannot be is an error of the configuration, not of a login

    def admit(self, request: AdmissionRequest, tag: int = 1, alias: str = "") -> Grant:
        """Let a login go on to its authentication.  Raises LoginError 0202."""
        discovery = request.session_type == DISCOVERY
        rules = self.discovery if discovery else self.targets.get(request.target_name, ())
        what = "discovery" if discovery else request.target_name
        rule = decide(rules, request.initiator_name)
        if rule is None:
            raise login_error(LoginStatus.AUTHORIZATION_FAILURE, f"no rule of {what} lets {request.initiator_name} in")
        if not rule.allow:
            raise login_error(
                LoginStatus.AUTHORIZATION_FAILURE, f"rule {rule.name} of {what} keeps {request.initiator_name} out"
            )
        return Grant(portal_group_tag=tag, target_alias=alias, auth=rule.auth(self.algorithms), rule=rule)

    def keeps(self, target: str, initiator: str, user: str | None) -> Rule | None:
        """The rule that a session goes on under which began under other rules; None for one that has to end.

        ``user`` is who the initiator proved to be.  That its secret is another now does not end a session.
        """
        rule = decide(self.targets.get(target, ()), initiator)
        if rule is None or not rule.allow:
            return None
        return rule if not rule.users or any(known.name == user for known in rule.users) else None

    def shows(self, target: str, initiator: str) -> bool:
        """Whether discovery tells ``initiator`` of ``target``: not of one that would not let it in."""
        rule = decide(self.targets.get(target, ()), initiator)
        return rule is not None and rule.allow


def decide(rules: Sequence[Rule], initiator: str) -> Rule | None:
    """The rule that counts for ``initiator``; None where there are rules and none fits."""
    if not rules:
        return OPEN
    return next((rule for rule in rules if matches(rule.initiator, initiator)), None)


def matches(pattern: str, name: str) -> bool:
    """Whether an iSCSI name fits a pattern, in which ``*`` is any text and ``?`` any character.  Case counts not."""
    return _compiled(pattern).fullmatch(name.lower()) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if letter == "*" else "." if letter == "?" else re.escape(letter) for letter in pattern.lower())
    return re.compile("".join(parts), re.DOTALL)


def audit_allowed(request: AdmissionRequest, grant: Admission | None, address: str) -> None:
    """One line for a login that succeeded."""
    rule, user = (grant.rule, grant.user) if isinstance(grant, Grant) else (OPEN, None)
    audit.info("allowed %s as=%s rule=%s", _who(request, address), user or "-", _safe(rule.name))


def audit_denied(request: AdmissionRequest | None, grant: Admission | None, address: str, error: LoginError) -> None:
    """One line for a login that did not; ``request`` is None where the initiator had not said who it is."""
    who = _who(request, address) if request else f"address={address}"
    rule = grant.rule.name if isinstance(grant, Grant) else "-"
    audit.info("denied %s rule=%s: %s", who, _safe(rule), _safe(str(error)))


def audit_redirected(request: AdmissionRequest, address: str, error: LoginError) -> None:
    """One line for a login that has to go elsewhere, which was neither let in nor kept out."""
    audit.info("redirected %s: %s", _who(request, address), _safe(str(error)))


def _who(request: AdmissionRequest, address: str) -> str:
    target = "discovery" if request.session_type == DISCOVERY else request.target_name
    return (
        f"initiator={_safe(request.initiator_name)} address={address} transport={request.transport} "
        f"target={_safe(target)}"
    )


def _safe(text: str) -> str:
    """A peer's text on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST]
