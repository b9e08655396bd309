"""Choose, for each command and direction, how its list gets its one STag; count every choice."""

from __future__ import annotations

import logging
from typing import Final

from iser.errors import ResourceError, UsageError
from iser.rdma.api import DeviceAttributes, ProtectionDomain
from iser.sg.counters import RegistrationCounters
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.shape import Shape, overlaps, shape_of
from iser.sg.strategies import STRATEGIES, Bounce, FallbackReason, Frwr, Resources, Strategy

__all__ = ["DEFAULT_SG_TABLESIZE", "STRATEGY_NAMES", "Planner", "check_strategy"]

DEFAULT_SG_TABLESIZE: Final = 4096
AUTO: Final = "auto"
STRATEGY_NAMES: Final = (AUTO, *STRATEGIES)
_ALIASES: Final = {"page-list": Frwr.name, "page list": Frwr.name, "page_list": Frwr.name}

log = logging.getLogger("iser.sg")


def check_strategy(name: str) -> str:
    """The canonical name of a strategy.  Raises UsageError for one that does not exist."""
    name = _ALIASES.get(name, name)
    if name not in STRATEGY_NAMES:
        raise UsageError(f"strategy {name!r} does not exist; choose one of {', '.join(STRATEGY_NAMES)}")
    return name


class Planner:
    """Registers lists for one connection, up to ``depth`` at a time.

    ``strategy`` is tried first; a list that it refuses is bounced, or refused with ResourceError under ``no_bounce``.
    ``auto`` takes a page list where there is no gap, else an indirect region, else a bounce.
    """

    def __init__(
        self,
        pd: ProtectionDomain,
        attributes: DeviceAttributes,
        depth: int,
        *,
        strategy: str = AUTO,
        no_bounce: bool = False,
        sg_tablesize: int = DEFAULT_SG_TABLESIZE,
        max_bytes: int = 16 << 20,
    ) -> None:
        resources = Resources(pd, attributes, depth, sg_tablesize, max_bytes)
        self._resources = resources
        self._strategies = {name: kind(resources) for name, kind in STRATEGIES.items()}
        self._no_bounce = no_bounce
        self.counters: RegistrationCounters = resources.counters
        self.strategy = strategy

    @property
    def strategy(self) -> str:
        """The strategy tried first; may be set between commands."""
        return self._strategy

    @strategy.setter
    def strategy(self, name: str) -> None:
        name = check_strategy(name)
        if name == Bounce.name and self._no_bounce:
            raise UsageError("strategy 'bounce' copies and no_bounce forbids it; drop one of the two")
        self._strategy = name

    @property
    def in_use(self) -> int:
        """Regions held by lists that are registered now."""
        return self._resources.page_lists.in_use + self._resources.sg_lists.in_use

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """Register a non-empty list.  Raises ResourceError when it cannot be."""
        shape = shape_of(sg)
        strategy = self._choose(sg, shape, direction)
        registration = strategy.register(sg, shape, direction)
        counters = self.counters
        counters.registrations += 1
        counters.stags += 1
        counters.work_requests += 1
        counters.by_strategy[strategy.name] += 1
        if log.isEnabledFor(logging.DEBUG):
            _log(registration, strategy, sg, shape)
        return registration

    def release(self, registration: Registration, transferred: int) -> None:
        """Take a registration back; ``transferred`` bytes arrived, 0 after a failure."""
        self.counters.bytes_copied += registration.release(transferred)

    def _choose(self, sg: SgList, shape: Shape, direction: Direction) -> Strategy:
        if direction is Direction.READ and len(sg) > 1 and self._strategy != Bounce.name and overlaps(sg):
            return self._bounce(sg, shape, FallbackReason.OVERLAP)
        name = self._strategy
        if name == AUTO:
            name = "indirect" if shape.gaps else Frwr.name
        strategy = self._strategies[name]
        reason = strategy.refuses(sg, shape)
        return strategy if reason is None else self._bounce(sg, shape, reason)

    def _bounce(self, sg: SgList, shape: Shape, reason: FallbackReason) -> Strategy:
        if self._no_bounce:
            raise ResourceError(f"{sg!r} would have to be copied ({reason.value}), and no_bounce forbids it")
        strategy = self._strategies[Bounce.name]
        if strategy.refuses(sg, shape):
            raise ResourceError(f"{sg!r} is larger than one memory region holds; use smaller commands")
        self.counters.fallbacks[reason.value] += 1
        return strategy


def _log(registration: Registration, strategy: Strategy, sg: SgList, shape: Shape) -> None:
    log.debug(
        "%s: lkey=%08x rkey=%08x base=%#x length=%d elements=%d class=%s",
        strategy.name,
        registration.region.lkey,
        registration.rkey,
        registration.iova,
        registration.length,
        len(sg),
        shape.sg_class.value,
    )
