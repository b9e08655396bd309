"""The seam between login and authentication methods (RFC 7143 sections 6.3.2 and 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from iser.login.keys import KEYS
from iser.login.text import NONE, NOT_UNDERSTOOD, Pair

__all__ = ["AUTH_METHOD", "AuthStep", "InitiatorAuth", "NoAuth", "TargetAuth", "part_security_text"]

AUTH_METHOD = "AuthMethod"

AuthStep = tuple[list[Pair], bool]


class InitiatorAuth(Protocol):
    """One login's authentication at the initiator.

    ``methods`` are the AuthMethod values to offer, best first.  ``step`` gets the security keys of one response, the
    target's choice as ``("AuthMethod", method)`` first of all, and returns the keys of the next request and whether
    they are our last.  The answer to the last ones goes through ``step`` too, empty or not, so that the target can be
    verified; it says that it is done again.  Raises ``LoginError`` (0201) when the target fails the test.
    """

    @property
    def methods(self) -> Sequence[str]: ...

    def step(self, pairs: Sequence[Pair]) -> AuthStep: ...


class TargetAuth(Protocol):
    """One login's authentication at the target.

    ``methods`` are the AuthMethod values that are good enough; with "None" among them a login may skip the stage.
    ``step`` gets the security keys of one request, ``("AuthMethod", chosen)`` first of all, and returns the keys of the
    response and whether the initiator is authenticated.  Raises ``LoginError`` (0201) when it is not.
    """

    @property
    def methods(self) -> Sequence[str]: ...

    def step(self, pairs: Sequence[Pair]) -> AuthStep: ...


class NoAuth:
    """AuthMethod=None, for either side: at once done; no key of any other method is understood."""

    @property
    def methods(self) -> Sequence[str]:
        """Only "None"."""
        return (NONE,)

    def step(self, pairs: Sequence[Pair]) -> AuthStep:
        """Done, whatever comes."""
        return [
            (name, NOT_UNDERSTOOD) for name, value in pairs if name != AUTH_METHOD and value != NOT_UNDERSTOOD
        ], True


def part_security_text(pairs: Sequence[Pair]) -> tuple[str | None, list[Pair], list[Pair]]:
    """A security stage's text as: the value of AuthMethod, the keys of the table, the keys of some method."""
    plain: list[Pair] = []
    methods: list[Pair] = []
    choice = None
    for name, value in pairs:
        if name == AUTH_METHOD:
            choice = value
        elif name in KEYS or name.startswith(("X-", "X#")):
            plain.append((name, value))
        else:
            methods.append((name, value))
    return choice, plain, methods
