"""TOML with line numbers: every key is found where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.document import Document, key_text
from bridge.errors import ConfigError

TEXT = '''# comment [not.a.table]
top = "a # no comment"
[a] # comment
x = 1
"quoted.key".z = """
several "lines" \\""" of
text"""
y = [
  "one", # ] no end
  'two ] "',

  {p = 1, q.r = [1,
    2]},
]
literal = \'\'\'
x = 1
\'\'\'
  spaced . key  =  2020-01-01T00:00:00Z
[[r]]
n = 1
[r.s]
t = {}
[[r]]
[r.s]
t = []
[[r.u]]
v = 1.5e3
[[r.u]]
v = inf
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("a",), 3),
        (("a", "x"), 4),
        (("a", "quoted.key", "z"), 5),
        (("a", "y"), 8),
        (("a", "y", 0), 9),
        (("a", "y", 1), 10),
        (("a", "y", 2, "p"), 12),
        (("a", "y", 2, "q", "r", 1), 13),
        (("a", "literal"), 15),
        (("a", "spaced", "key"), 18),
        (("r",), 19),
        (("r", 0, "n"), 20),
        (("r", 0, "s", "t"), 22),
        (("r", 1), 23),
        (("r", 1, "s"), 24),
        (("r", 1, "s", "t"), 25),
        (("r", 1, "u", 0, "v"), 27),
        (("r", 1, "u", 1, "v"), 29),
    ],
)
def test_every_key_is_found_on_its_line(path, line):
    document = Document(Path("x.toml"), TEXT)
    value = document.values
    for part in path:  # the path is one that tomllib knows too
        value = value[part]
    assert document.line(path) == line


def test_carriage_returns_do_not_shift_the_lines():
    document = Document(Path("x.toml"), TEXT.replace("\n", "\r\n"))
    assert document.line(("r", 1, "u", 1, "v")) == 29


def test_a_missing_key_is_placed_at_the_table_that_should_hold_it():
    document = Document(Path("x.toml"), TEXT)
    assert document.line(("a", "missing", "deeper")) == 3
    assert document.line(("nowhere",)) == 0


def test_keys_are_written_as_their_author_knows_them():
    assert key_text(("platforms", "my sales", "hosts", 0)) == 'platforms."my sales".hosts[0]'


@pytest.mark.parametrize(
    ("text", "line"),
    [('a = 1\nb = "x\n', 2), ("a = 1\n\n[a\n", 3), ("a = 1\na = 2\n", 2), ("a = [1,\n2\n", 3), ("x", 1)],
)
def test_a_syntax_error_names_its_line(text, line):
    with pytest.raises(ConfigError) as caught:
        Document(Path("x.toml"), text)
    assert caught.value.line == line
    assert caught.value.file == "x.toml"
    assert "line" not in caught.value.problem


def test_a_file_that_is_not_there_or_not_text_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.read(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        Document.read(tmp_path / "latin.toml")
    assert caught.value.line == 2
