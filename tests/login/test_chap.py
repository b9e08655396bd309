"""CHAP through both login machines, and every way to cheat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LoginError, UsageError
from iser.login import InitiatorLogin, TargetLogin
from iser.login.chap import (
    MAX_CHALLENGE,
    ChapAlgorithm,
    ChapUser,
    InitiatorChap,
    TargetChap,
    chap_response,
)
from iser.login.text import Pair, decode_binary, encode_binary
from iser.secret import Secret
from tests.login.peers import initiator_config, run, target_login

ALICE = ChapUser("alice", Secret(b"alice's own secret"))
TARGET_ID = ChapUser("the-target", Secret(b"the target's secret"))
MALLORY = ChapUser("alice", Secret(b"not alice's secret"))


def log_in(initiator: InitiatorChap, target: TargetChap) -> tuple[InitiatorLogin, TargetLogin]:
    logins = InitiatorLogin(initiator_config(), initiator), target_login(auth=target)
    run(*logins)
    return logins


def refused(initiator: InitiatorChap, target: TargetChap) -> str:
    """Why the login was refused, at whichever side; it has to be 0201."""
    machine = target_login(auth=target)
    with pytest.raises(LoginError) as caught:
        run(InitiatorLogin(initiator_config(), initiator), machine)
    assert (caught.value.status_class, caught.value.status_detail) == (2, 1)
    return str(machine.failure or caught.value)


def challenge(target: TargetChap, offer: str = "5") -> dict[str, str]:
    target.step([("AuthMethod", "CHAP")])
    return dict(target.step([("CHAP_A", offer)])[0])


# The exchange


@pytest.mark.parametrize("algorithm", list(ChapAlgorithm))
def test_both_sides_prove_themselves_with_each_algorithm(algorithm: ChapAlgorithm) -> None:
    target = TargetChap([ALICE], TARGET_ID, [algorithm])
    initiator, machine = log_in(InitiatorChap(ALICE, TARGET_ID), target)
    assert initiator.done
    assert machine.done
    assert target.user == "alice"


def test_one_way() -> None:
    assert log_in(InitiatorChap(ALICE), TargetChap([ALICE]))[0].done


def test_a_response_is_the_hash_of_identifier_secret_and_challenge() -> None:
    expected = hashlib.md5(b"\x07" + b"alice's own secret" + b"challenge", usedforsecurity=False).digest()
    assert chap_response(ChapAlgorithm.MD5, 7, ALICE.secret, b"challenge") == expected


@pytest.mark.parametrize(
    ("ours", "offer", "chosen"),
    [
        ([ChapAlgorithm.SHA256, ChapAlgorithm.MD5], "5,6,7", "7"),
        ([ChapAlgorithm.MD5, ChapAlgorithm.SHA256], "7,5", "5"),
        ([ChapAlgorithm.MD5], "99,abc,5", "5"),
    ],
)
def test_the_targets_order_of_preference_counts(ours: Sequence[ChapAlgorithm], offer: str, chosen: str) -> None:
    said = challenge(TargetChap([ALICE], algorithms=ours), offer)
    assert said["CHAP_A"] == chosen
    assert len(decode_binary(said["CHAP_C"])) == ChapAlgorithm(int(chosen)).size


def test_no_algorithm_in_common() -> None:
    initiator = InitiatorChap(ALICE, algorithms=[ChapAlgorithm.MD5])
    assert "SHA256" in refused(initiator, TargetChap([ALICE], algorithms=[ChapAlgorithm.SHA256]))


def test_an_optional_chap_lets_pass_without_and_still_checks_who_tries() -> None:
    without = InitiatorLogin(initiator_config())
    run(without, target_login(auth=TargetChap([ALICE], optional=True)))
    assert without.done
    assert log_in(InitiatorChap(ALICE), TargetChap([ALICE], optional=True))[0].done
    assert "did not prove" in refused(InitiatorChap(MALLORY), TargetChap([ALICE], optional=True))


def test_who_wants_a_proof_does_not_accept_a_target_without_authentication() -> None:
    with pytest.raises(LoginError):
        run(InitiatorLogin(initiator_config(), InitiatorChap(ALICE, TARGET_ID)), target_login())
    without = InitiatorLogin(initiator_config(), InitiatorChap(ALICE))
    run(without, target_login())
    assert without.done


# Cheating initiators


def test_a_wrong_secret_and_an_unknown_name_end_alike() -> None:
    wrong = refused(InitiatorChap(MALLORY), TargetChap([ALICE]))
    unknown = refused(InitiatorChap(ALICE._replace(name="bob")), TargetChap([ALICE]))
    assert wrong == unknown.replace("'bob'", "'alice'")


def test_nothing_but_chap_passes() -> None:
    with pytest.raises(LoginError, match="0201"):
        run(InitiatorLogin(initiator_config()), target_login(auth=TargetChap([ALICE])))


def answered(target: TargetChap, said: dict[str, str], *more: Pair, user: ChapUser = ALICE) -> list[Pair]:
    proof = chap_response(ChapAlgorithm.MD5, int(said["CHAP_I"]), user.secret, decode_binary(said["CHAP_C"]))
    return target.step([("CHAP_N", user.name), ("CHAP_R", encode_binary(proof)), *more])[0]


def test_our_own_challenge_sent_back_is_refused() -> None:
    target = TargetChap([ALICE], TARGET_ID)
    said = challenge(target)
    with pytest.raises(LoginError, match="own challenge back"):
        answered(target, said, ("CHAP_I", said["CHAP_I"]), ("CHAP_C", said["CHAP_C"]))


def test_a_response_made_with_the_targets_secret_is_refused() -> None:
    target = TargetChap([ALICE], TARGET_ID)
    with pytest.raises(LoginError, match="0201"):
        answered(target, challenge(target), user=ChapUser("alice", TARGET_ID.secret))


def test_an_initiator_gets_no_response_before_it_has_proved_itself() -> None:
    target = TargetChap([ALICE], TARGET_ID)
    said = challenge(target)
    with pytest.raises(LoginError, match="did not prove"):
        answered(target, said, ("CHAP_I", "1"), ("CHAP_C", "0x" + "ab" * 16), user=MALLORY)


def test_a_target_without_a_secret_cannot_prove_itself() -> None:
    assert "no secret for" in refused(InitiatorChap(ALICE, TARGET_ID), TargetChap([ALICE]))


@pytest.mark.parametrize(
    "more",
    [
        [("CHAP_I", "1")],
        [("CHAP_C", "0x1234")],
        [("CHAP_I", "256"), ("CHAP_C", "0x1234")],
        [("CHAP_I", "one"), ("CHAP_C", "0x1234")],
        [("CHAP_I", "1"), ("CHAP_C", "0x")],
        [("CHAP_I", "1"), ("CHAP_C", "1234")],
        [("CHAP_I", "1"), ("CHAP_C", "0x" + "00" * (MAX_CHALLENGE + 1))],
    ],
)
def test_malformed_challenges_are_0201(more: list[Pair]) -> None:
    target = TargetChap([ALICE], TARGET_ID)
    with pytest.raises(LoginError, match="0201"):
        answered(target, challenge(target), *more)


@pytest.mark.parametrize(
    "pairs",
    [[], [("CHAP_N", "alice")], [("CHAP_R", "0x12")], [("CHAP_N", "alice"), ("CHAP_R", "0x" + "00" * 65)]],
)
def test_malformed_responses_are_0201(pairs: list[Pair]) -> None:
    target = TargetChap([ALICE])
    challenge(target)
    with pytest.raises(LoginError, match="0201"):
        target.step(pairs)


# Cheating targets


def responses(initiator: InitiatorChap) -> dict[str, str]:
    """What an initiator says to a challenge."""
    initiator.step([("AuthMethod", "CHAP")])
    return dict(initiator.step([("CHAP_A", "5"), ("CHAP_I", "9"), ("CHAP_C", "0x" + "cd" * 16)])[0])


@pytest.mark.parametrize(
    ("user", "why"),
    [
        (ALICE, "our own secret"),  # a response of ours, reflected from another connection
        (ChapUser("the-target", MALLORY.secret), "did not prove"),
        (ChapUser("another", TARGET_ID.secret), "did not prove"),
    ],
)
def test_a_target_that_does_not_know_its_secret_is_refused(user: ChapUser, why: str) -> None:
    initiator = InitiatorChap(ALICE, TARGET_ID)
    said = responses(initiator)
    proof = chap_response(ChapAlgorithm.MD5, int(said["CHAP_I"]), user.secret, decode_binary(said["CHAP_C"]))
    with pytest.raises(LoginError, match=why):
        initiator.step([("CHAP_N", user.name), ("CHAP_R", encode_binary(proof))])


@pytest.mark.parametrize("pairs", [[], [("CHAP_N", "the-target")], [("CHAP_N", "the-target"), ("CHAP_R", "x")]])
def test_a_target_that_says_nothing_is_refused(pairs: list[Pair]) -> None:
    initiator = InitiatorChap(ALICE, TARGET_ID)
    responses(initiator)
    with pytest.raises(LoginError, match="0201"):
        initiator.step(pairs)


def test_any_name_of_the_target_will_do_where_none_is_set() -> None:
    assert log_in(InitiatorChap(ALICE, TARGET_ID._replace(name="")), TargetChap([ALICE], TARGET_ID))[0].done


@pytest.mark.parametrize("offer", ["8", "5,6", "", "9999"])
def test_a_target_that_chooses_what_was_not_offered_is_refused(offer: str) -> None:
    initiator = InitiatorChap(ALICE, algorithms=[ChapAlgorithm.MD5, ChapAlgorithm.SHA1])
    initiator.step([("AuthMethod", "CHAP")])
    with pytest.raises(LoginError, match="0201"):
        initiator.step([("CHAP_A", offer), ("CHAP_I", "9"), ("CHAP_C", "0x1234")])


# Configuration


def test_the_same_secret_in_both_directions_is_refused() -> None:
    twin = ChapUser("the-target", ALICE.secret)
    with pytest.raises(UsageError, match="give each direction its own"):
        TargetChap([ALICE], twin)
    with pytest.raises(UsageError, match="give each direction its own"):
        InitiatorChap(ALICE, twin)


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_name_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 255 bytes"):
        TargetChap([ALICE._replace(name=name)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "X"]),
                st.one_of(st.text(max_size=12), st.sampled_from(["5", "5,6,7,8", "0x00", "alice", "0b"])),
            ),
            max_size=6,
        ),
        max_size=5,
    )
)
def test_no_text_gets_in_or_raises_anything_else(texts: list[list[Pair]]) -> None:
    target = TargetChap([ALICE], TARGET_ID)
    try:
        for pairs in texts:
            assert not target.step(pairs)[1]
    except LoginError:
        pass
    assert target.user is None
