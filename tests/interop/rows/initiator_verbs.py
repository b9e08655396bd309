"""Our initiator over verbs, in the guest, with our target, LIO and tgt, over rxe and over siw."""

from __future__ import annotations

import dataclasses
import json
import shlex
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tests.interop.guest_verbs import Guest, Task
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.base import TargetPeer
from tests.interop.peers.guest import GUEST_IWARP, GUEST_ROCE, SECRETS, GuestTarget, our_tables
from tests.interop.peers.lio import Lio
from tests.interop.peers.process import TargetProcess
from tests.interop.peers.tgt import Tgt
from tests.interop.recorder import Notes, NotOffered, feature
from tests.lab import Job, Machine
from tests.lab.build import PROJECT

_SECONDS = 280.0
_ADDRESSES = {Fabric.IWARP: GUEST_IWARP, Fabric.ROCE: GUEST_ROCE}
_CLOSED_ON = (Feature.WARM_RESET, Feature.COLD_RESET)
#: Signs of the guest to this machine, and back.
_WAIT_FOR = "while [ ! -e /run/kill-{sign} ]; do sleep 0.1; done; rm /run/kill-{sign}"
Outcomes = dict[str, tuple[str, str]]

#: The same list as the guest works through.
_FEATURES = [name for name, _ in Guest(Task("iser://guest/iqn.a/0", "", 0, 0, 0, "", "")).features()]


def _task(peer: TargetPeer, address: str, port: int, guarded_port: int) -> Task:
    """What the guest has to know of ``peer``, which is at ``address``."""
    options = "&".join(f"{name}={value}" for name, value in peer.options.items())
    return Task(
        f"iser://{address}:{port}/{peer.name}/{peer.lun}?{options}",
        f"iser://{address}:{guarded_port}/{peer.guarded[0]}/{peer.lun}?{options}",
        peer.slow_lun,
        peer.settle_seconds,
        peer.missing_seconds,
        peer.kill_script,
        peer.start_script,
        peer.spares_commands,
        peer.must_prove_itself,
        peer.login_tries,
        cut_note=peer.cut_note,
    )


def _played(lab: Machine, task: Task) -> Outcomes:
    """What each feature came to."""
    words = shlex.quote(json.dumps(dataclasses.asdict(task)))
    command = f"{lab.build.python} -m tests.interop.guest_verbs {words}"
    result = lab.run(f"cd {PROJECT} && exec {command}", seconds=_SECONDS, check=False)
    outcomes = {}
    for line in result.out.splitlines():
        name, verdict, note = json.loads(line)
        outcomes[name] = verdict, note
    if not outcomes:
        result.checked()
    return outcomes


def _take(outcomes: Outcomes, which: Feature, notes: Notes) -> None:
    """Make a test end as the feature did in the guest."""
    verdict, note = outcomes.get(which.value, ("fail", "the guest did not come this far"))
    if verdict == "not offered":
        raise NotOffered(note)
    assert verdict == "pass", note
    if note:
        notes.add(note)


class _VerbsRow:
    """A row: the guest plays all of it once, each test reads its cell."""

    row: ClassVar[Row]

    @pytest.mark.parametrize("which", [pytest.param(name, marks=feature(name)) for name in _FEATURES])
    def test_feature(self, outcomes: Outcomes, which: Feature, notes: Notes) -> None:
        _take(outcomes, which, notes)


class _WithOurs(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine) -> Iterator[Outcomes]:
        """Our target beside it in the guest."""
        address, port = _ADDRESSES[cls.row.fabric], 3270 + list(Fabric).index(cls.row.fabric)
        target = GuestTarget(lab, address, port)
        with target.process.serving():
            yield _played(lab, _task(target, address, port, port))


class _WithLio(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, lio: Lio) -> Outcomes:
        """LIO."""
        address, number = _ADDRESSES[cls.row.fabric], list(Fabric).index(cls.row.fabric)
        lio.guard()
        task = _task(lio, address, lio.port, lio.guarded_port)
        victim = Lio(lab, f"lio-killed-{number}", 3290 + 2 * number)  # it may hang, and shall not take others along
        victim.start()
        url = f"iser://{address}:{victim.port}/{victim.name}/{victim.lun}"
        task = dataclasses.replace(
            task, strategies=True, victim=url, kill_script=victim.kill_script, start_script=victim.start_script
        )
        return _played(lab, task)

    @feature(Feature.STRATEGIES)
    def test_strategies(self, outcomes: Outcomes, notes: Notes) -> None:
        _take(outcomes, Feature.STRATEGIES, notes)


class _WithTgt(_VerbsRow):
    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, tgt: Tgt) -> Outcomes:
        """tgt, which knows our initiator by name; a new one, since the last row cut connections."""
        tgt.restart()
        task = _task(tgt, _ADDRESSES[cls.row.fabric], tgt.port, tgt.port)
        closes = {feature.value: "tgt closes the connection on this function" for feature in _CLOSED_ON}
        return _played(lab, dataclasses.replace(task, not_offered=closes))


class TestOursOverRoce(_WithOurs):
    row = Row("initiator, verbs", "our target, verbs", Fabric.ROCE)


class TestOursOverIwarp(_WithOurs):
    row = Row("initiator, verbs", "our target, verbs", Fabric.IWARP)


class TestLioOverRoce(_WithLio):
    row = Row("initiator, verbs", "LIO ib_isert", Fabric.ROCE)


class TestLioOverIwarp(_WithLio):
    row = Row("initiator, verbs", "LIO ib_isert", Fabric.IWARP)


class TestTgtOverRoce(_WithTgt):
    row = Row("initiator, verbs", "tgt iser", Fabric.ROCE)


class TestTgtOverIwarp(_WithTgt):
    row = Row("initiator, verbs", "tgt iser", Fabric.IWARP)


class TestSoftiwarp(_VerbsRow):
    """Between our two providers: verbs on siw in the guest, the embedded RNIC on this machine."""

    row = Row("initiator, verbs", "our target, softiwarp", Fabric.IWARP)

    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls, lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
        """Our target on this machine, which is killed when the guest asks for it."""
        name = "iqn.2026-11.lab:soft"
        target = TargetProcess(tmp_path_factory.mktemp("soft"), our_tables(name), environment=SECRETS)
        with target.serving():
            url = f"iser://{target.portal_of(0)}/{name}"
            asked = lab.start(_WAIT_FOR.format(sign="please"), seconds=_SECONDS)
            killer = threading.Thread(target=_kill_when_asked, args=(lab, target, asked))
            killer.start()
            kill = f"touch /run/kill-please; {_WAIT_FOR.format(sign='done')}"
            yield _played(lab, Task(f"{url}/0", f"{url}.guarded/0", 1, 0, 0, kill, "true"))
            asked.kill()
            killer.join()


def _kill_when_asked(lab: Machine, target: TargetProcess, asked: Job) -> None:
    """Kill our target, start it again, and say so, once the guest wants it; runs in a thread."""
    if asked.wait().exit == 0:
        target.kill()
        target.start()
        lab.run("touch /run/kill-done")
