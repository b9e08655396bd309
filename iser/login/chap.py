"""CHAP, one way and mutual, for both sides (RFC 1994; RFC 7143 sections 9.2.1 and 12.1.3).

The exchange, each line a PDU::

    initiator  AuthMethod=CHAP,None
    target     AuthMethod=CHAP
    initiator  CHAP_A=8,7,6,5                                     algorithms, best first
    target     CHAP_A=7 CHAP_I=<id> CHAP_C=<challenge>
    initiator  CHAP_N=<name> CHAP_R=<response> [CHAP_I CHAP_C]    the latter to have the target prove itself
    target     [CHAP_N CHAP_R]
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from iser.errors import IserError, PduError, UsageError
from iser.login.auth import AUTH_METHOD, AuthStep
from iser.login.status import LoginStatus, login_error
from iser.login.text import MAX_VALUE_LENGTH, NONE, Pair, decode_binary, decode_number, encode_binary
from iser.secret import Secret

__all__ = [
    "ALGORITHMS",
    "CHAP",
    "DEFAULT_ALGORITHMS",
    "MAX_CHALLENGE",
    "ChapAlgorithm",
    "ChapUser",
    "InitiatorChap",
    "TargetChap",
    "chap_response",
    "parse_algorithms",
]

CHAP: Final = "CHAP"
MAX_CHALLENGE: Final = 1024  # bytes, RFC 7143 section 12.1.3
_MAX_ALGORITHMS: Final = 32  # in one offer
_MAX_RESPONSE: Final = 64  # bytes: more than any of our digests


class ChapAlgorithm(IntEnum):
    """CHAP_A values as the IANA registry of PPP authentication algorithms has them."""

    MD5 = 5
    SHA1 = 6
    SHA256 = 7
    SHA3_256 = 8

    @property
    def hash_name(self) -> str:
        """What :mod:`hashlib` calls it."""
        return self.name.lower()

    @property
    def size(self) -> int:
        """Bytes of a response, and of the challenges that we make."""
        return hashlib.new(self.hash_name).digest_size


#: Best first.
DEFAULT_ALGORITHMS: Final = (ChapAlgorithm.SHA3_256, ChapAlgorithm.SHA256, ChapAlgorithm.SHA1, ChapAlgorithm.MD5)
#: By the names that URLs and files use.
ALGORITHMS: Final = {
    "md5": ChapAlgorithm.MD5,
    "sha1": ChapAlgorithm.SHA1,
    "sha256": ChapAlgorithm.SHA256,
    "sha3-256": ChapAlgorithm.SHA3_256,
}


def parse_algorithms(text: str) -> tuple[ChapAlgorithm, ...]:
    """Algorithms by name, best first, with commas between; "" for our own order.  Raises UsageError."""
    if not text:
        return DEFAULT_ALGORITHMS
    names = text.split(",")
    unknown = next((name for name in names if name not in ALGORITHMS), None)
    if unknown is not None:
        raise UsageError(f"CHAP algorithm {unknown!r} does not exist; choose among {', '.join(ALGORITHMS)}")
    return tuple(dict.fromkeys(ALGORITHMS[name] for name in names))


class ChapUser(NamedTuple):
    """Who proves to be whom: a CHAP_N, and the secret that goes with it."""

    name: str
    secret: Secret


def chap_response(algorithm: ChapAlgorithm, identifier: int, secret: Secret, challenge: bytes) -> bytes:
    """The response to a challenge (RFC 1994 section 4.1)."""
    return hashlib.new(algorithm.hash_name, bytes((identifier,)) + secret.reveal() + challenge).digest()


def check_user(user: ChapUser, other: ChapUser | None) -> None:
    """Raises UsageError for a name that cannot be sent, and for the same secret in both directions."""
    for each in (user, other):
        if each is not None and not 0 < len(each.name.encode()) <= MAX_VALUE_LENGTH:
            raise UsageError(f"the CHAP name {each.name!r} has to have 1 to {MAX_VALUE_LENGTH} bytes")
    if other is not None and user.secret == other.secret:
        raise UsageError(
            f"CHAP users {user.name!r} and {other.name!r} prove themselves to each other with the same secret; "
            "give each direction its own (RFC 7143 section 9.2.1)"
        )


class TargetChap:
    """The target's side of one login.

    ``users`` may log in; ``mutual`` is whom we prove to be when the initiator asks.  ``algorithms`` are ours, best
    first: the best that the initiator offers too is taken.  With ``optional`` an initiator may pass without.
    ``user`` is the name that was proved.
    """

    def __init__(
        self,
        users: Sequence[ChapUser],
        mutual: ChapUser | None = None,
        algorithms: Sequence[ChapAlgorithm] = DEFAULT_ALGORITHMS,
        *,
        optional: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        for user in users:
            check_user(user, mutual)
        self._users = {user.name: user.secret for user in users}
        self._mutual = mutual
        self._algorithms = tuple(algorithms)
        self._methods = (CHAP, NONE) if optional else (CHAP,)
        self._random = random
        self._algorithm: ChapAlgorithm | None = None
        self._identifier = 0
        self._challenge = b""
        self.user: str | None = None

    @property
    def methods(self) -> Sequence[str]:
        """See :class:`TargetAuth`."""
        return self._methods

    def step(self, pairs: Sequence[Pair]) -> AuthStep:
        """See :class:`TargetAuth`.  Whatever the initiator does wrong is LoginError 0201."""
        keys = _keys(pairs)
        try:
            if self._algorithm is None:
                return (self._open(keys), False) if "CHAP_A" in keys else ([], False)
            return self._verify(keys), True
        except PduError as error:
            raise _refusal(str(error)) from None

    def _open(self, keys: dict[str, str]) -> list[Pair]:
        offered = _algorithms(keys["CHAP_A"])
        chosen = next((each for each in self._algorithms if each in offered), None)
        if chosen is None:
            ours = ", ".join(each.name for each in self._algorithms)
            raise _refusal(f"the initiator offers CHAP algorithms {keys['CHAP_A']}; needed is one of {ours}")
        self._algorithm = chosen
        self._identifier = self._random(1)[0]
        self._challenge = self._random(chosen.size)
        return [
            ("CHAP_A", str(int(chosen))),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _verify(self, keys: dict[str, str]) -> list[Pair]:
        assert self._algorithm is not None
        name = _key(keys, "CHAP_N")
        response = _binary(keys, "CHAP_R", _MAX_RESPONSE)
        secret = self._users.get(name)
        # An unknown name costs the same time as a wrong secret.
        expected = chap_response(self._algorithm, self._identifier, secret or _NOBODY, self._challenge)
        if not hmac.compare_digest(response, expected) or secret is None:
            raise _refusal(f"the initiator did not prove to be CHAP user {name!r}")
        mutual = self._mutual
        if mutual and hmac.compare_digest(response, self._response_of(mutual, self._identifier, self._challenge)):
            raise _refusal(f"CHAP user {name!r} uses our own secret; give each direction its own")
        answer: list[Pair] = []
        if "CHAP_I" in keys or "CHAP_C" in keys:
            answer = self._prove(keys, name)
        self.user = name
        return answer

    def _prove(self, keys: dict[str, str], name: str) -> list[Pair]:
        """Our own response, for an initiator that has proved itself: before that it gets none to reflect."""
        identifier, challenge = _challenge(keys)
        if hmac.compare_digest(challenge, self._challenge):
            raise _refusal(f"CHAP user {name!r} sent our own challenge back to us")
        if self._mutual is None:
            raise _refusal(f"CHAP user {name!r} asks this target to prove itself, which it has no secret for")
        response = self._response_of(self._mutual, identifier, challenge)
        return [("CHAP_N", self._mutual.name), ("CHAP_R", encode_binary(response))]

    def _response_of(self, user: ChapUser, identifier: int, challenge: bytes) -> bytes:
        assert self._algorithm is not None
        return chap_response(self._algorithm, identifier, user.secret, challenge)


class InitiatorChap:
    """The initiator's side of one login as ``user``.

    With ``mutual`` the target has to prove to know that secret, under its name unless that is "".  Without it, a target
    that wants no authentication may have it so.
    """

    def __init__(
        self,
        user: ChapUser,
        mutual: ChapUser | None = None,
        algorithms: Sequence[ChapAlgorithm] = DEFAULT_ALGORITHMS,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_user(user, mutual._replace(name=mutual.name or user.name) if mutual else None)
        self._user = user
        self._mutual = mutual
        self._algorithms = tuple(algorithms)
        self._random = random
        self._algorithm: ChapAlgorithm | None = None
        self._identifier = 0
        self._challenge = b""
        self._stage = self._offer

    @property
    def methods(self) -> Sequence[str]:
        """See :class:`InitiatorAuth`."""
        return (CHAP,) if self._mutual else (CHAP, NONE)

    def step(self, pairs: Sequence[Pair]) -> AuthStep:
        """See :class:`InitiatorAuth`."""
        try:
            return self._stage(_keys(pairs))
        except PduError as error:
            raise _refusal(str(error)) from None

    def _offer(self, keys: dict[str, str]) -> AuthStep:
        del keys
        self._stage = self._respond
        return [("CHAP_A", ",".join(str(int(each)) for each in self._algorithms))], False

    def _respond(self, keys: dict[str, str]) -> AuthStep:
        chosen = _algorithms(_key(keys, "CHAP_A"))
        if len(chosen) != 1 or chosen[0] not in self._algorithms:
            raise PduError(f"the target chose CHAP algorithm {keys['CHAP_A']}, which we did not offer")
        self._algorithm = algorithm = chosen[0]
        identifier, challenge = _challenge(keys)
        response = chap_response(algorithm, identifier, self._user.secret, challenge)
        answer = [("CHAP_N", self._user.name), ("CHAP_R", encode_binary(response))]
        if self._mutual:
            self._identifier = self._random(1)[0]
            self._challenge = self._random(algorithm.size)
            answer += [("CHAP_I", str(self._identifier)), ("CHAP_C", encode_binary(self._challenge))]
            if hmac.compare_digest(challenge, self._challenge):
                raise _refusal("the target guessed our challenge")
        self._stage = self._check
        return answer, True

    def _check(self, keys: dict[str, str]) -> AuthStep:
        mutual, algorithm = self._mutual, self._algorithm
        if mutual is None:
            return [], True
        assert algorithm is not None
        name = _key(keys, "CHAP_N")
        response = _binary(keys, "CHAP_R", _MAX_RESPONSE)
        expected = chap_response(algorithm, self._identifier, mutual.secret, self._challenge)
        reflected = chap_response(algorithm, self._identifier, self._user.secret, self._challenge)
        if hmac.compare_digest(response, reflected):
            raise _refusal(f"the target {name!r} proved itself with our own secret; give each direction its own")
        if not hmac.compare_digest(response, expected) or mutual.name not in ("", name):
            raise _refusal(f"the target did not prove to be CHAP user {mutual.name or name!r}; check both secrets")
        return [], True


_NOBODY: Final = Secret(bytes(16))


def _keys(pairs: Sequence[Pair]) -> dict[str, str]:
    return {name: value for name, value in pairs if name != AUTH_METHOD}


def _key(keys: dict[str, str], name: str) -> str:
    try:
        return keys[name]
    except KeyError:
        raise PduError(f"the peer left out {name} of CHAP") from None


def _binary(keys: dict[str, str], name: str, limit: int) -> bytes:
    try:
        return decode_binary(_key(keys, name), limit)
    except PduError:
        raise
    except IserError as error:
        raise PduError(f"{name}: {error}") from None


def _challenge(keys: dict[str, str]) -> tuple[int, bytes]:
    try:
        identifier = decode_number(_key(keys, "CHAP_I"))
    except PduError:
        raise
    except IserError as error:
        raise PduError(f"CHAP_I: {error}") from None
    challenge = _binary(keys, "CHAP_C", MAX_CHALLENGE)
    if identifier > 0xFF or not challenge:
        raise PduError("the peer sent a CHAP_I above 255 or an empty CHAP_C")
    return identifier, challenge


def _algorithms(text: str) -> list[ChapAlgorithm]:
    """Those that we know in a list of numbers."""
    numbers = text.split(",", _MAX_ALGORITHMS)[:_MAX_ALGORITHMS]
    return [_BY_NUMBER[number] for number in numbers if number in _BY_NUMBER]


_BY_NUMBER: Final = {str(int(each)): each for each in ChapAlgorithm}


def _refusal(why: str) -> IserError:
    return login_error(LoginStatus.AUTHENTICATION_FAILURE, why)
