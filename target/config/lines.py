"""Which line of a TOML file a key stands on.

The TOML reader of the standard library gives values without their places.  This scan finds the places again in a text
that is known to be valid TOML; it reads table headers and keys, and steps over values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["Path", "find_line", "key_lines"]

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)((?:[^\[\]\"']|\"[^\"]*\"|'[^']*')+)\]")
_KEY = re.compile(
    r"\s*((?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_PART = re.compile(r"[A-Za-z0-9_-]+|\"((?:[^\"\\]|\\.)*)\"|'([^']*)'")
#: A whole string, a comment, or one bracket: all that matters for where a value ends.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}]|\n', re.DOTALL
)


def key_lines(text: str) -> Mapping[Path, int]:
    """The line, from 1, of each table header and key.  Array tables are counted: ``("target", 0, "lun", 1, "size")``.

    A key inside of an inline table or array is not in it; :func:`find_line` gives the line of what holds it.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _statements(text):
        if header := _HEADER.match(statement):
            table = _table(header, counts)
            lines.setdefault(table, number)
        elif key := _KEY.match(statement):
            path = table
            for part in _parts(key[1]):
                path = (*path, part)
                lines.setdefault(path, number)
    return lines


def find_line(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of ``path``, or of the nearest thing that holds it."""
    for end in range(len(path), 0, -1):
        if (line := lines.get(path[:end])) is not None:
            return line
    return None


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each header or key with its value, however many lines that is."""
    start = depth = 0
    for token in _TOKEN.finditer(text + "\n"):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif token[0] == "\n" and depth == 0:
            yield text.count("\n", 0, start) + 1, text[start : token.start()]
            start = token.end()


def _parts(dotted: str) -> list[str]:
    return [match[1] or match[2] or match[0].strip("\"'") for match in _PART.finditer(dotted)]


def _table(header: re.Match[str], counts: dict[Path, int]) -> Path:
    """The path of a table; each part that is an array of tables is followed by the index of its latest element."""
    path: Path = ()
    parts = _parts(header[2])
    for index, part in enumerate(parts):
        path = (*path, part)
        if header[1] == "[[" and index == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
