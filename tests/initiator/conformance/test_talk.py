from __future__ import annotations

import pytest

from initiator.conformance import Failure, Unusual
from initiator.conformance.talk import Said, offers, refused
from iser.login import LoginStatus
from iser.pdu import Stage
from tests.initiator.conformance.bad import site_of


def test_offers_are_our_initiators_but_for_what_is_said() -> None:
    usual = dict(offers())
    assert usual["RDMAExtensions"] == "Yes"
    assert dict(offers(InitialR2T="No", RDMAExtensions=None, Other="1")) == {
        name: value for name, value in usual.items() if name != "RDMAExtensions"
    } | {"InitialR2T": "No", "Other": "1"}


@pytest.mark.parametrize("status", [0x0203, 0x0200])
def test_a_usual_refusal_passes(status: int) -> None:
    refused(Said(status), "it", LoginStatus.NOT_FOUND, LoginStatus.INITIATOR_ERROR)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (0x0207, Unusual, "it is answered with status 0207; the standard has 0203"),
        (0x0300, Unusual, "status 0300"),
        (-1, Unusual, "closes the connection without a login status"),
        (0x0000, Failure, "it is not refused"),
        (0x0101, Failure, "it is not refused"),
    ],
)
def test_other_ends_of_a_login(status: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        refused(Said(status), "it", LoginStatus.NOT_FOUND)


async def test_a_login_in_words_of_its_own() -> None:
    async with site_of() as site, site.talk() as talk:
        assert await talk.exchange([*talk.introduction(), ("AuthMethod", "None")], Stage.SECURITY, Stage.OPERATIONAL)
        assert talk.said.pairs["AuthMethod"] == "None"
        said = await talk.log_in(offers())
        assert said.done
        assert said.responses[-1].tsih


async def test_a_login_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site_of() as site:
        monkeypatch.setattr("target.connection.Connection._login_request", lambda self, pdu: None)
        async with site.talk() as talk:
            with pytest.raises(Failure, match="the login hangs"):
                await talk.log_in(talk.introduction())
