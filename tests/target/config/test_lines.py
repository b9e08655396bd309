"""Finding keys in TOML text again."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from target.config.lines import find_line, key_lines

TEXT = '''\
# [not.a.table]
top = 1
[portal.main]
listen = "# not a comment [x]"   # a comment = 1
"quoted key" = 2
a.b . c = 3

[[target]]
name = "x"
text = """
[[target]]
name = "inside"
"""
  [[target.lun]]
  id = 0
  list = [
    1, # ]
    { id = 7 },
  ]
  raw = \'\'\'
id = 9 " \'\'\'
[[target.lun]]
id = 1
[target.lun.sub]
deep = true
[[target]]
[[target.lun]]
id = 2
'''


def test_places() -> None:
    tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    assert dict(lines) == {
        ("top",): 2,
        ("portal", "main"): 3,
        ("portal", "main", "listen"): 4,
        ("portal", "main", "quoted key"): 5,
        ("portal", "main", "a"): 6,
        ("portal", "main", "a", "b"): 6,
        ("portal", "main", "a", "b", "c"): 6,
        ("target", 0): 8,
        ("target", 0, "name"): 9,
        ("target", 0, "text"): 10,
        ("target", 0, "lun", 0): 14,
        ("target", 0, "lun", 0, "id"): 15,
        ("target", 0, "lun", 0, "list"): 16,
        ("target", 0, "lun", 0, "raw"): 20,
        ("target", 0, "lun", 1): 22,
        ("target", 0, "lun", 1, "id"): 23,
        ("target", 0, "lun", 1, "sub"): 24,
        ("target", 0, "lun", 1, "sub", "deep"): 25,
        ("target", 1): 26,
        ("target", 1, "lun", 0): 27,
        ("target", 1, "lun", 0, "id"): 28,
    }


def test_the_nearest_holder_stands_in() -> None:
    lines = key_lines(TEXT)
    assert find_line(lines, ("target", 0, "lun", 0, "list", 1, "id")) == 16
    assert find_line(lines, ("target", 0, "lun", 1, "size")) == 22
    assert find_line(lines, ("nowhere",)) is None


def test_windows_line_ends_and_no_last_line_end() -> None:
    assert key_lines("[a]\r\nb = 1\r\n\r\nc = 2") == {("a",): 1, ("a", "b"): 2, ("a", "c"): 4}


names = st.sampled_from(["a", "bb", "c-d"])
values = st.sampled_from(['"x"', "1", "[1, 2]", '"""\n[z]\ny = 1\n"""', "[\n 1,\n]", "{ q = 1 }", "'#'", '"\\"["'])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), names, st.dictionaries(names, values, max_size=3)), max_size=5))
def test_every_key_is_found_where_it_was_written(tables: list[tuple[bool, str, dict[str, str]]]) -> None:
    """A text is written with the places noted; the scan has to find each of them."""
    text, expected, counts = "", {}, {"a": -1, "bb": -1, "c-d": -1}
    for blank, name, entries in tables:
        text += "\n" if blank else "# [x]\n"
        counts[name] += 1
        path: tuple[Any, ...] = (name, counts[name])
        expected[path] = text.count("\n") + 1
        text += f"[[{name}]]\n"
        for key, value in entries.items():
            expected[(*path, key)] = text.count("\n") + 1
            text += f"{key} = {value}  # end\n"
    tomllib.loads(text)
    assert dict(key_lines(text)) == expected
