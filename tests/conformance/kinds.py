"""The kinds of LUN that the tool is run on, and which of its tests each kind is for."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from tests.conformance.verdict import Place

__all__ = ["KINDS", "TARGET", "Kind", "configuration", "places"]

TARGET: Final = "iqn.2026-11.test:conformance"

#: ``portal.second`` is the other path.
_PORTALS: Final = """
[portal.first]
listen = "iscsi://127.0.0.1:0"

[portal.second]
listen = "iscsi://127.0.0.1:0"
group = 2
"""


class Kind(NamedTuple):
    """``lun`` are the settings of the LUN; ``only`` and ``never`` are patterns of ``SUITE.TEST``."""

    name: str
    about: str
    lun: str
    only: tuple[str, ...] = ("*",)
    never: tuple[str, ...] = ()
    paths: int = 1

    def takes(self, test: str) -> bool:
        """Whether ``test`` is run on this kind."""
        return _matches(test, self.only) and not _matches(test, self.never)


def _matches(test: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(test, pattern) for pattern in patterns)


_MEMORY: Final = 'backend = "memory"\nsize = '

KINDS: Final = (
    # Sanitize.Reset wants an overwrite that lasts longer than 5 s, which is what 1 GiB takes.
    Kind("fixed", "1 GiB in memory, thin, physical blocks of 512 bytes", f'{_MEMORY}"1G"'),
    Kind(
        "removable",
        "256 MiB in memory, thin, removable, physical blocks of 4096 bytes; `Sanitize.*` is left to the fixed kind",
        f'{_MEMORY}"256M"\nremovable = true\nphysical_block_size = 4096',
        never=("Sanitize.*",),
    ),
    # Most other tests write, or count the helper's refused write as a failure.
    Kind("read-only", "256 MiB in memory, write-protected", f'{_MEMORY}"256M"\nread_only = true', only=("ReadOnly.*",)),
    # Thick LUNs take WRITE SAME of "all blocks to the end", which thin ones refuse (WSNZ in VPD page B0).
    Kind(
        "two paths",
        "256 MiB in memory, thick, through two portals; for `MultipathIO.*`, and what only thick LUNs do",
        f'{_MEMORY}"256M"\nthin = false',
        only=("MultipathIO.*", "WriteSame1?.ZeroBlocks"),
        paths=2,
    ),
)


def configuration() -> str:
    """A target with one LUN of each kind, numbered in the order of :data:`KINDS`, as TOML."""
    luns = "\n".join(f"[[target.lun]]\nid = {number}\n{kind.lun}\n" for number, kind in enumerate(KINDS))
    return f'{_PORTALS}\n[[target]]\nname = "{TARGET}"\n\n{luns}'


def places(tests: Iterable[str]) -> list[Place]:
    """Every one of ``tests`` in every kind that takes it, kind by kind."""
    names = list(tests)
    return [Place(kind.name, name) for kind in KINDS for name in names if kind.takes(name)]
