"""Choose, for each command and direction, how its list gets its one STag; count every choice."""

from __future__ import annotations

import logging
from typing import Final

from iser.errors import PoolEmpty, ResourceError, UsageError
from iser.rdma.api import DeviceAttributes, ProtectionDomain
from iser.sg.counters import RegistrationCounters
from iser.sg.pool import MAX_BOUNCE
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import BLOCK
from iser.sg.strategies import (
    AUTO,
    BOUNCE,
    STRATEGIES,
    FallbackReason,
    Frwr,
    Immediate,
    Indirect,
    Resources,
    Split,
    Strategy,
)
from iser.sg.strategies.multi_mr import MultiMr
from iser.sg.strategies.split import runs

__all__ = ["DEFAULT_SG_TABLESIZE", "STRATEGY_NAMES", "Planner", "check_strategy", "has_long_lived_keys"]

DEFAULT_SG_TABLESIZE: Final = 4096
STRATEGY_NAMES: Final = (AUTO, *STRATEGIES)
_ALIASES: Final = {"page-list": Frwr.name, "page list": Frwr.name, "page_list": Frwr.name}

Reasons = tuple[FallbackReason, ...]
_NO_REASONS: Final[Reasons] = ()
_READ: Final = Direction.READ

log = logging.getLogger("iser.sg")


def check_strategy(name: str, *, no_bounce: bool = False) -> str:
    """The canonical name of a strategy.  Raises UsageError for one that does not exist or, with no_bounce, copies."""
    name = _ALIASES.get(name, name)
    if name == MultiMr.name:
        raise UsageError("strategy 'multi_mr' takes several STags for a command and iSER has one; see iser bench")
    if name not in STRATEGY_NAMES:
        raise UsageError(f"strategy {name!r} does not exist; choose one of {', '.join(STRATEGY_NAMES)}")
    if no_bounce and name != AUTO and STRATEGIES[name].copies:
        raise UsageError(f"strategy {name!r} copies and no_bounce forbids it; drop one of the two")
    return name


def has_long_lived_keys(name: str) -> bool:
    """True for a strategy whose keys outlive the command, so that the target must not invalidate them."""
    return name != AUTO and STRATEGIES[name].long_lived


class Planner:
    """Registers lists for one connection, up to ``depth`` at a time.

    ``strategy`` is tried first; a list that it refuses goes to the strategy's fallback, which is ``bounce`` as a rule,
    or is refused with ResourceError where that means a copy and ``no_bounce`` forbids it.  ``auto`` takes a page list
    where there is no gap, else an indirect region, else a bounce.  ``long_lived_keys`` says that the target invalidates
    nothing, so that strategies whose keys outlive the command may be chosen.  ``max_bounce`` caps the bytes to copy
    through, of each kind.
    """

    def __init__(  # noqa: PLR0913 - each limit has a default of its own
        self,
        pd: ProtectionDomain,
        attributes: DeviceAttributes,
        depth: int,
        *,
        strategy: str = AUTO,
        no_bounce: bool = False,
        sg_tablesize: int = DEFAULT_SG_TABLESIZE,
        max_bytes: int = 16 << 20,
        max_bounce: int = MAX_BOUNCE,
        long_lived_keys: bool = True,
    ) -> None:
        resources = Resources(pd, attributes, depth, sg_tablesize, max_bytes, max_bounce)
        self._resources = resources
        self._strategies = {name: kind(resources) for name, kind in STRATEGIES.items()}
        self._frwr, self._indirect = self._strategies[Frwr.name], self._strategies[Indirect.name]
        self._chosen: Strategy | None  # None is auto
        self._no_bounce = no_bounce
        self._long_lived_keys = long_lived_keys
        self.counters: RegistrationCounters = resources.counters
        # Whatever its address, a list of one element of so many bytes has no more blocks than a page list holds.
        self._plain = (resources.page_lists.max_num_sg - 1) * BLOCK
        self.splits = False  # whether a transfer may become several commands
        self.strategy = strategy

    @property
    def strategy(self) -> str:
        """The strategy tried first; may be set between commands."""
        return self._strategy

    @strategy.setter
    def strategy(self, name: str) -> None:
        name = check_strategy(name, no_bounce=self._no_bounce)
        if has_long_lived_keys(name) and not self._long_lived_keys:
            raise UsageError(
                f"strategy {name!r} keeps its keys and this session lets the target invalidate them; connect with it"
            )
        self._strategy = name
        self._chosen = self._strategies.get(name)
        self.splits = name == Split.name
        # Where a copy is asked for by name, it is what it costs a kernel; as a fallback it is to cost little.
        self._resources.bounce.keep = name != BOUNCE

    @property
    def in_use(self) -> int:
        """Regions, slots' bytes and objects held by lists that are registered now; 0 when nothing leaked."""
        each = self._resources
        return (
            each.page_lists.in_use + each.sector_lists.in_use + each.sg_lists.in_use + each.bounce.in_use
            + each.slots.in_use + each.arenas.in_use
        )  # fmt: skip

    @property
    def high_water(self) -> dict[str, int]:
        """The most that was in use at once: regions of each kind, bytes of ``bounce`` and ``slots``, objects."""
        each = self._resources
        return {
            "page_lists": each.page_lists.high_water,
            "sector_lists": each.sector_lists.high_water,
            "sg_lists": each.sg_lists.high_water,
            "bounce": each.bounce.high_water,
            "slots": each.slots.high_water,
            "arenas": each.arenas.high_water,
        }

    def parts(self, sg: SgList, sector: int) -> list[SgList]:
        """The lists to send a command for each: several only under ``split``, each a multiple of ``sector`` bytes."""
        return runs(sg, sector) if self.splits else [sg]

    def count_immediate(self) -> None:
        """Note a write that travelled with its command."""
        self.counters.by_strategy[Immediate.name] += 1

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """Register a non-empty list.

        Raises PoolEmpty when it has to wait until others are released, ResourceError when it cannot be registered.
        """
        strategy, reasons = self._chosen, _NO_REASONS
        if strategy is None and len(sg.lengths) == 1 and sg.length <= self._plain:
            strategy = self._frwr  # which refuses no such list
        else:
            if strategy is None:  # auto
                strategy = self._indirect if sg.gappy else self._frwr
            if (
                reason := strategy.refuses(sg, direction)
                if strategy.copies or direction is not _READ or not sg.overlaps
                else FallbackReason.OVERLAP
            ):
                strategy, reasons = self._instead(strategy, reason, sg, direction)
        counters = self.counters
        try:
            registration = strategy.register(sg, direction)
        except PoolEmpty:
            counters.pool_waits += 1
            raise
        for reason in reasons:
            counters.fallbacks[reason.value] += 1
        posted = len(registration.work)
        counters.registrations += posted
        counters.work_requests += posted
        counters.stags += 1
        counters.by_strategy[strategy.name] += 1
        if log.isEnabledFor(logging.DEBUG):
            _log(registration, strategy, sg)
        return registration

    def release(self, registration: Registration, transferred: int) -> None:
        """Take a registration back; ``transferred`` bytes arrived, 0 after a failure."""
        self.counters.bytes_copied += registration.release(transferred)

    def _instead(
        self, strategy: Strategy, reason: FallbackReason, sg: SgList, direction: Direction
    ) -> tuple[Strategy, Reasons]:
        """The strategy that serves a list which ``strategy`` does not, and why those before it do not."""
        reasons: Reasons = (reason,)
        if strategy.fallback == AUTO and reason is not FallbackReason.OVERLAP:
            strategy = self._indirect if sg.gappy else self._frwr
            further = strategy.refuses(sg, direction)
            if further is None:
                return strategy, reasons
            reasons = (reason, further)
        if self._no_bounce:
            raise ResourceError(f"{sg!r} would have to be copied ({reasons[-1].value}), and no_bounce forbids it")
        strategy = self._strategies[BOUNCE]
        if strategy.refuses(sg, direction):
            raise ResourceError(f"{sg!r} is larger than one memory region holds; use smaller commands")
        return strategy, reasons


def _log(registration: Registration, strategy: Strategy, sg: SgList) -> None:
    log.debug(
        "%s: lkey=%08x rkey=%08x base=%#x length=%d elements=%d class=%s",
        strategy.name,
        registration.region.lkey,
        registration.rkey,
        registration.iova,
        registration.length,
        len(sg),
        sg.shape.sg_class.value,
    )
