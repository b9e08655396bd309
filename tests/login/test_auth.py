"""The authentication seam: a toy challenge and answer through both machines."""

from __future__ import annotations

import pytest

from iser.errors import LoginError, NegotiationError
from iser.login import Admission, InitiatorLogin, LoginStatus, NoAuth
from iser.login.auth import part_security_text
from tests.login.peers import (
    Directory,
    Password,
    PasswordTarget,
    initiator_config,
    request,
    run,
    status_of,
    target_login,
)


def test_a_password_opens_the_door() -> None:
    initiator = InitiatorLogin(initiator_config(), Password("secret"))
    target = target_login(auth=PasswordTarget("secret"))
    assert len(run(initiator, target)) == 4  # method, algorithm, answer, operational stage
    assert initiator.result.params == target.result.params


def test_a_wrong_password_is_0201_at_both_sides() -> None:
    target = target_login(auth=PasswordTarget("secret"))
    with pytest.raises(LoginError) as caught:
        run(InitiatorLogin(initiator_config(), Password("guess")), target)
    assert (caught.value.status_class, caught.value.status_detail) == (2, 1)
    assert target.failed


def test_the_target_is_verified_too() -> None:
    good = InitiatorLogin(initiator_config(), Password("s", mutual=True))
    run(good, target_login(auth=PasswordTarget("s", proof="s")))
    assert good.done
    with pytest.raises(LoginError):
        run(InitiatorLogin(initiator_config(), Password("s", mutual=True)), target_login(auth=PasswordTarget("s")))


def test_the_directory_may_ask_for_authentication() -> None:
    directory = Directory(Admission(auth=PasswordTarget("secret")))
    with pytest.raises(LoginError, match="0201"):
        run(InitiatorLogin(initiator_config()), target_login(directory=directory))


def test_the_first_acceptable_method_of_the_initiator_counts() -> None:
    initiator = InitiatorLogin(initiator_config(), Password("secret", ("CHAP", "None")))
    assert len(run(initiator, target_login())) == 2  # the target chose None, and the operational stage
    assert initiator.done


def test_no_method_in_common_is_0201() -> None:
    target = target_login(auth=PasswordTarget("s"))
    with pytest.raises(LoginError, match="0201"):
        run(InitiatorLogin(initiator_config(security_stage=True)), target)


@pytest.mark.parametrize("flags", [0x87, 0x81, 0x83])
def test_nobody_gets_past_the_security_stage(flags: int) -> None:
    pairs = [("InitiatorName", "iqn.2026-11.test:i"), ("TargetName", "iqn.2026-11.test:target")]
    target = target_login(auth=PasswordTarget("s"))
    answer = target.receive(request(flags, pairs))
    assert not target.done
    assert not answer.bhs.flags & 0x80
    if flags == 0x87:
        assert status_of(answer) == LoginStatus.AUTHENTICATION_FAILURE


def test_a_method_that_was_not_offered_is_refused() -> None:
    target = target_login(auth=PasswordTarget("s", ("CHAP", "None")))
    initiator = InitiatorLogin(initiator_config(), Password("s", ("KRB5", "CHAP")))
    first = initiator.start()
    answer = target.receive(first)
    with pytest.raises(NegotiationError, match="AuthMethod"):
        initiator.receive(answer._replace(data=b"AuthMethod=SRP\0"))


def test_no_auth_understands_no_keys_of_methods() -> None:
    assert NoAuth().step([("AuthMethod", "None"), ("CHAP_A", "5")]) == ([("CHAP_A", "NotUnderstood")], True)


def test_parts_of_a_security_text() -> None:
    pairs = [("TargetAlias", "a"), ("CHAP_N", "n"), ("AuthMethod", "CHAP"), ("X-org.x", "1")]
    assert part_security_text(pairs) == ("CHAP", [("TargetAlias", "a"), ("X-org.x", "1")], [("CHAP_N", "n")])
