"""What a directory may answer."""

from __future__ import annotations

import pytest

from iser.errors import LoginError
from iser.login import Admission, InitiatorLogin, Redirection, TargetAddress
from tests.login.peers import Directory, initiator_config, run, target_login


@pytest.mark.parametrize(("permanent", "detail"), [(False, 1), (True, 2)])
def test_a_redirection_reaches_the_initiator_with_its_address(permanent: bool, detail: int) -> None:
    address = TargetAddress("fe80::2", 3261, 4)
    initiator = InitiatorLogin(initiator_config())
    with pytest.raises(LoginError) as caught:
        run(initiator, target_login(directory=Directory(Redirection(address, permanent))))
    assert (caught.value.status_class, caught.value.status_detail) == (1, detail)
    assert initiator.redirect == address


def test_alias_and_portal_group_tag_reach_the_initiator() -> None:
    initiator = InitiatorLogin(initiator_config())
    target = target_login(directory=Directory(Admission(portal_group_tag=9, target_alias="disk")))
    run(initiator, target)
    for params in (initiator.result.params, target.result.params):
        assert (params.target_portal_group_tag, params.target_alias) == (9, "disk")
