"""Tests of iser.datamover.api: the session can have either transport, as both fill the same primitives."""

from __future__ import annotations

import inspect

import pytest

from iser.datamover import IserInitiator, IserTarget, TaskBuffers
from iser.datamover.api import Datamover, InitiatorDatamover, QuickPath, TargetDatamover
from iser.datamover.tcp import TcpInitiator, TcpTarget


@pytest.mark.parametrize("kind", [IserInitiator, TcpInitiator, IserTarget, TcpTarget])
def test_every_primitive_is_there_with_the_same_arguments(kind: type[Datamover]) -> None:
    role = InitiatorDatamover if issubclass(kind, InitiatorDatamover) else TargetDatamover
    assert issubclass(kind, role)
    assert not inspect.isabstract(kind)
    for name in role.__abstractmethods__:
        wanted, there = (inspect.signature(getattr(owner, name)) for owner in (role, kind))
        assert list(there.parameters) == list(wanted.parameters), name


@pytest.mark.parametrize("kind", [IserTarget, TcpTarget])
def test_targets_offer_the_short_way_with_the_same_arguments(kind: type[Datamover]) -> None:
    for name in ("serve_quickly", "quick_read", "quick_good"):
        wanted, there = (inspect.signature(getattr(owner, name)) for owner in (QuickPath, kind))
        assert list(there.parameters) == list(wanted.parameters), name


def test_a_command_without_data_has_no_lists() -> None:
    assert TaskBuffers() == TaskBuffers(None, None, 0, 0)
