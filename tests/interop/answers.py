"""What a target answers to the keys of a login, word by word."""

from __future__ import annotations

from typing import Final

from initiator.conformance import survey
from initiator.conformance.talk import offers
from initiator.url import Url
from tests.interop.peers.base import TargetPeer

__all__ = ["DECLARATION", "answers"]

DECLARATION: Final = {"MaxAHSLength": "256"}


async def answers(peer: TargetPeer, **changes: str) -> dict[str, str]:
    """The target's keys in a login with our usual offer and ``changes`` to it.  Raises AssertionError if it fails."""
    url = Url.parse(f"iser://{peer.portal}/{peer.name}/{peer.lun}")
    site = await survey(url, url.connect_options.with_changes(peer.options), peer.settle_seconds)
    async with site.talk() as talk:
        said = await talk.log_in([*talk.introduction(), *offers(**changes)])
    assert said.done, f"status {said.status:04x}"
    return said.pairs
