"""Tests of iser.rdma.api: the key of the next registration, and that both providers fill the seam."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.rdma import api
from iser.rdma.softiwarp import SoftIwarp
from iser.rdma.softiwarp.cm import SoftConnectRequest, SoftListener
from iser.rdma.softiwarp.device import SoftDevice
from iser.rdma.softiwarp.memory import SoftMemoryRegion
from iser.rdma.softiwarp.qp import SoftQueuePair
from iser.rdma.verbs.cm import Verbs, VerbsConnectRequest, VerbsListener
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.qp import VerbsQueuePair


@given(st.integers(0, 0xFFFFFFFF))
def test_a_region_has_256_keys_one_after_the_other(key: int) -> None:
    seen = {key}
    for _ in range(255):
        following = api.inc_rkey(key)
        assert following >> 8 == key >> 8
        key = following
        seen.add(key)
    assert len(seen) == 256
    assert api.inc_rkey(key) in seen


@pytest.mark.parametrize(
    ("noun", "kinds"),
    [
        (api.Provider, (SoftIwarp, Verbs)),
        (api.Device, (SoftDevice, VerbsDevice)),
        (api.QueuePair, (SoftQueuePair, VerbsQueuePair)),
        (api.MemoryRegion, (SoftMemoryRegion, IndirectRegion)),
        (api.ProtectionDomain, (VerbsProtectionDomain,)),
        (api.CompletionQueue, (VerbsCompletionQueue,)),
        (api.ConnectRequest, (SoftConnectRequest, VerbsConnectRequest)),
        (api.Listener, (SoftListener, VerbsListener)),
    ],
)
def test_each_noun_is_whole_in_both_providers_with_the_same_arguments(noun: type, kinds: tuple[type, ...]) -> None:
    for kind in kinds:
        assert issubclass(kind, noun)
        assert not inspect.isabstract(kind)
        for name in getattr(noun, "__abstractmethods__"):  # noqa: B009 - mypy does not know it of a plain type
            wanted = getattr(noun, name)
            if callable(wanted):
                assert list(inspect.signature(getattr(kind, name)).parameters) == list(
                    inspect.signature(wanted).parameters
                )
