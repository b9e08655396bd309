"""Streams of an odd or hostile peer, cut anywhere: what is received in place is as if all had been staged and checked.

Both ways get the same stream.  They must end alike: completions, Terminate, keys, memory.  Only where a message was
still on its way may there be bytes of it that the slow way would not have placed.  Memory that was given back, by an
invalidation of either side, a completion or the end of the connection, is never written to again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import TerminateError
from iser.rdma.api import Access, MrType, RdmaRead, RegMr, WcStatus, inc_rkey
from iser.rdma.softiwarp import rx as rx_module
from iser.rdma.softiwarp.memory import SoftMemoryRegion
from iser.rdma.softiwarp.wire import OP_READ_RESPONSE, OP_SEND, OP_SEND_INV, OP_TERMINATE, OP_WRITE
from tests.rdma.softiwarp.support import ALL, Elements, Peer, buffer, fpdu, new_device, tagged, untagged

BASES: Final = (0x7F0000000000, 0x7F1000000000)  # where the peer believes the regions to be
REGIONS: Final = ([300_000], [70_000, 5, 40_000, 17_000, 1, 90_000])
READS: Final = ([350_000], [100, 60_000, 3, 61_000])
GAP: Final = 13
RECEIVES: Final = 12
RENEWED: Final = 200_000  # bytes that a region names under its next key
ARENA: Final = 3 << 19
REST: Final = bytes(66_000)  # ends every FPDU

_TO: Final = (1 << 64) - 1

Span = tuple[int, int]  # of the arena: from, up to


class World:
    """A core with two regions, two reads on the wire, and receives; all memory lies in one arena full of ``~``."""

    def __init__(self, crc: bool) -> None:
        device = new_device()
        device.keys._next = 4711  # all worlds have the same keys
        self.peer = Peer(device, crc=crc)
        self.arena = memoryview(bytearray(b"~" * ARENA))
        self._free = GAP
        self.regions = [cast(SoftMemoryRegion, self.peer.pd.alloc_mr(MrType.SG_GAPS, 10)) for _ in REGIONS]
        self.places: list[list[Span]] = [[], []]
        for which, lengths in enumerate(REGIONS):
            self._register(which, lengths, ALL)
        self.sinks = [self._take(lengths) for lengths in READS]
        for number, spans in enumerate(self.sinks):
            self.peer.core.post_send([RdmaRead(number, self._views(spans), 0x5000, 0x123)])
        out = self.peer.take()
        self.sink_keys = [int.from_bytes(out[at + 20 : at + 24], "big") for at in (0, len(out) // 2)]
        self.receive = buffer(100)
        for number in range(RECEIVES):
            self.peer.core.post_recv(f"recv {number}", self.receive)
        self._given_back: list[tuple[memoryview, bytes]] = []

    def _take(self, lengths: list[int]) -> list[Span]:
        spans = []
        for length in lengths:
            spans.append((self._free, self._free + length))
            self._free += length + GAP
        return spans

    def _views(self, spans: list[Span]) -> list[memoryview]:
        return [self.arena[start:end] for start, end in spans]

    def _register(self, which: int, lengths: list[int], access: Access) -> None:
        region, self.places[which] = self.regions[which], self._take(lengths)
        region.map_sg(Elements(self._views(self.places[which]), base=BASES[which]))
        self.peer.core.post_send([RegMr(None, region, inc_rkey(region.rkey), access, signaled=False)])

    def act(self, what: str, which: int) -> None:
        """Invalidate a region, and renew it: it names other memory under its next key then."""
        region = self.regions[which]
        if region.valid:
            region.invalidate()
            self._give_back(self.places[which])
        if what == "renew" and self._free + RENEWED < ARENA:
            self._register(which, [RENEWED], Access.REMOTE_READ if which else ALL)

    def _give_back(self, spans: list[Span]) -> None:
        self._given_back += [(view, bytes(view)) for view in self._views(spans)]

    def feed(self, data: bytes) -> None:
        """Receive, and note what is given back then."""
        before, ended = len(self.peer.log), self.peer.core.ended
        self.peer.give(data)
        for wc in self.peer.log[before:]:
            if type(wc.wr_id) is int:
                self._give_back(self.sinks[wc.wr_id])
            elif wc.invalidated_rkey:
                rkeys = [region.rkey for region in self.regions]
                self._give_back(self.places[rkeys.index(wc.invalidated_rkey)])
        if self.peer.core.ended and not ended:
            self._give_back([(0, ARENA)])

    def check_given_back(self) -> None:
        for view, content in self._given_back:
            assert view == content

    def closed_memory(self, open_spans: list[Span]) -> bytes:
        """The arena without the sinks of reads that are not done, and without ``open_spans``."""
        done = {wc.wr_id for wc in self.peer.log if wc.status is WcStatus.SUCCESS}
        content = bytearray(self.arena)
        unfinished = [span for number, spans in enumerate(self.sinks) if number not in done for span in spans]
        for start, end in (*unfinished, *open_spans):
            content[start:end] = bytes(end - start)
        return bytes(content)


@dataclass
class Frame:
    """Bytes of the peer.  ``place`` is the region they are for; ``actions`` is what happens here at a byte of them."""

    wire: bytes = field(repr=False)
    place: int | None = None
    lies: bool = False
    actions: list[tuple[int, str, int]] = field(default_factory=list)


class Script:
    """Draws what the peer sends, knowing what would be right."""

    def __init__(self, draw: st.DrawFn, crc: bool) -> None:
        self.draw = draw
        keys, self.sink_keys = _keys()
        self.keys = list(keys)
        self.crc = crc
        self.frames: list[Frame] = []
        self.msn = 1
        self.got = [0, 0]
        self.rng = random.Random(draw(st.integers(0, 1 << 20)))

    def odd(self, often: int, *kinds: str) -> str:
        """Mostly nothing."""
        return self.draw(st.sampled_from([""] * often + list(kinds)))

    def write(self) -> None:
        """An RDMA Write of several segments."""
        which = self.draw(st.integers(0, 1))
        room = sum(REGIONS[which])
        total = self.draw(st.one_of(st.integers(1, 3000), st.integers(16_000, room)))
        offset = self.draw(st.integers(0, room - total))
        size = self.draw(st.sampled_from((16_400, 20_000, 33_333, 40_000, 65_520)))
        for start in range(0, total, size):
            part = min(size, total - start)
            self.segment(OP_WRITE, which, offset + start, part, last=start + part == total)
            self.between()

    def respond(self) -> None:
        """Some segments of the read response that is due."""
        size = self.draw(st.sampled_from((20_000, 20_001, 65_520)))
        for _ in range(self.draw(st.integers(1, 8))):
            which = 0 if self.got[0] < sum(READS[0]) else 1
            left = sum(READS[which]) - self.got[which]
            if not left:
                return
            part = min(size, left)
            self.segment(OP_READ_RESPONSE, which, self.got[which], part, last=part == left)
            self.got[which] += part
            self.between()

    def segment(self, kind: int, which: int, offset: int, length: int, *, last: bool) -> None:
        write = kind == OP_WRITE
        key, base = (self.keys[which], BASES[which]) if write else (self.sink_keys[which], 0)
        data = self.rng.randbytes(length)
        match self.odd(100, "key", "index", "offset", "bounds", "end", "short", "crc", "length", "opcode"):
            case "key":
                key ^= 1
            case "index":
                key ^= 0x300
            case "offset":
                offset += self.draw(st.sampled_from((-4, 4, -(1 << 20), 1 << 40, (1 << 63) - base)))
            case "bounds":
                offset += 400_000
            case "end":
                last = not last
            case "short":
                data = data[: length // 2]
            case "opcode":
                kind = self.draw(st.sampled_from((OP_WRITE, OP_READ_RESPONSE, 0x8144, 0x8340, 0x8100)))
            case "crc":
                wire = bytearray(tagged(kind, key, base + offset & _TO, data, last=last, crc=self.crc))
                wire[self.draw(st.integers(len(wire) // 2, len(wire) - 1))] ^= 1
                self.frames.append(Frame(bytes(wire), which if write else None))
                return
            case "length":  # it lies: all that follows is taken for something else
                wire = bytearray(tagged(kind, key, base + offset & _TO, data, last=last, crc=self.crc))
                lie = self.draw(st.sampled_from((3, 18, length, length + 18, 0xFFFF)))
                wire[:2] = min(lie, 0xFFFF).to_bytes(2, "big")
                self.frames.append(Frame(bytes(wire), which if write else None, lies=True))
                return
        wire_bytes = tagged(kind, key, base + offset & _TO, data, last=last, crc=self.crc)
        self.frames.append(Frame(wire_bytes, which if write else None))

    def between(self) -> None:
        """What may come, or be done here, between two segments or in the middle of one."""
        match self.odd(30, "send", "send", "invalidate", "terminate", "garbage", "local", "renew", "empty"):
            case "send":
                self.send(0)
            case "invalidate":
                self.send(self.keys[self.draw(st.integers(0, 1))])
            case "terminate":
                self.frames.append(Frame(untagged(OP_TERMINATE, b"\x01\0\0\0", qn=2, crc=self.crc)))
            case "garbage":
                self.frames.append(Frame(fpdu(self.rng.randbytes(self.rng.randrange(1, 30_000)), crc=self.crc)))
            case "empty":
                self.frames.append(Frame(tagged(OP_WRITE, 0, 0, crc=self.crc)))
            case "local" | "renew" as what:
                frame = self.frames[-1]
                at = self.draw(st.integers(0, len(frame.wire) // 2))
                which = self.draw(st.integers(0, 1))
                frame.actions = [(at, what, which)]
                if what == "renew":
                    self.keys[which] = inc_rkey(self.keys[which])

    def send(self, key: int) -> None:
        kind = OP_SEND_INV if key else OP_SEND
        data = self.rng.randbytes(self.rng.randrange(90))
        self.frames.append(Frame(untagged(kind, data, msn=self.msn, stag=key, crc=self.crc)))
        self.msn += 1


@cache
def _keys() -> tuple[list[int], list[int]]:
    """Those of the regions, and of the sinks of our reads."""
    world = World(crc=False)
    return [region.rkey for region in world.regions], world.sink_keys


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[Frame], bool]:
    crc = draw(st.sampled_from((False, False, True)))
    script = Script(draw, crc)
    for step in draw(
        st.lists(st.sampled_from(("write", "write", "respond", "respond", "send")), min_size=1, max_size=8)
    ):
        if step == "send":
            script.send(0)
        elif step == "write":
            script.write()
        else:
            script.respond()
    return script.frames, crc


def play_slowly(frames: list[Frame], crc: bool) -> tuple[World, list[Span]]:
    """One frame after the other, all of it staged; and where a frame was to go that ended it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rx_module, "STEER_MIN", 1 << 30)
        world = World(crc)
        open_spans: list[Span] = []
        for frame in frames:
            at = 0
            fine = not world.peer.core.ended
            place = [] if frame.place is None else world.places[frame.place]
            for position, what, which in frame.actions:
                world.feed(frame.wire[at:position])
                world.act(what, which)
                at = position
            world.feed(frame.wire[at:])
            if fine and (frame.lies or world.peer.core.ended):
                open_spans += place
        return world, open_spans


def play(frames: list[Frame], crc: bool, steps: list[int]) -> World:
    """In pieces of ``steps`` bytes, cut where something is done here."""
    world, plan = World(crc), list(steps)
    stretch = b""
    for frame in frames:
        at = 0
        for position, what, which in frame.actions:
            _feed(world, stretch + frame.wire[at:position], plan)
            world.act(what, which)
            stretch, at = b"", position
        stretch += frame.wire[at:]
    _feed(world, stretch, plan)
    world.check_given_back()
    return world


def _feed(world: World, data: bytes, plan: list[int]) -> None:
    while data:
        count = plan.pop() if plan else len(data)
        world.feed(data[:count])
        data = data[count:]


def outcome(world: World) -> object:
    error = world.peer.core.error
    codes = (error.layer, error.etype, error.code) if isinstance(error, TerminateError) else None
    keys = [(region.valid, region.rkey) for region in world.regions]
    return codes, world.peer.log, world.peer.core.rx.writes, keys, bytes(world.receive), world.peer.take()


STEPS = st.lists(st.one_of(st.integers(1, 40), st.integers(500, 70_000), st.integers(1, 1 << 20)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(scripts(), STEPS)
def test_in_place_is_as_good_as_staged(script: tuple[list[Frame], bool], steps: list[int]) -> None:
    slow, open_spans = play_slowly(*script)
    quick = play(*script, steps)
    if slow.peer.core.rx.mid_fpdu:  # only one of them may have looked at its header already
        for world in (slow, quick):
            world.feed(REST)
    assert outcome(quick) == outcome(slow)
    fine = quick.peer.core.error is None and not quick.peer.core.rx.mid_fpdu
    spans = [] if fine else open_spans
    assert quick.closed_memory(spans) == slow.closed_memory(spans)
