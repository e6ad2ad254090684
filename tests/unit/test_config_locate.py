"""Every key is found on its line, however TOML lets people write it."""

from __future__ import annotations

import tomli

from ccm.config.locate import Lines

TEXT = '''\
# a comment = 1 [not.a.table]
title = "a # not a comment"
[a]
b = 1
c.d = 2
"quoted key" = 3
'lit.eral' = 4
"esc\\u0061ped" = 5
multi = """
x = 1
[fake]
"""
literal = \'\'\'
y = 2\'\'\'
list = [
  1, # one
  { deep = 2 },
  "three",
]
inline = { e = 1, f = { g = 2 },
           h.i = 3 }
when = 1979-05-27 07:32:00
after = true

[ a . "b c" ]
z = 1
[[many]]
n = 1
[[many]]
n = 2
[many.sub]
s = 3
[[many.sub2]]
t = 4
'''

EXPECTED = {
    ("title",): 2,
    ("a",): 3,
    ("a", "b"): 4,
    ("a", "c"): 5,
    ("a", "c", "d"): 5,
    ("a", "quoted key"): 6,
    ("a", "lit.eral"): 7,
    ("a", "escaped"): 8,
    ("a", "multi"): 9,
    ("a", "literal"): 13,
    ("a", "list"): 15,
    ("a", "list", "1", "deep"): 17,
    ("a", "inline"): 20,
    ("a", "inline", "e"): 20,
    ("a", "inline", "f", "g"): 20,
    ("a", "inline", "h", "i"): 21,
    ("a", "when"): 22,
    ("a", "after"): 23,
    ("a", "b c"): 25,
    ("a", "b c", "z"): 26,
    ("many",): 27,
    ("many", "0", "n"): 28,
    ("many", "1"): 29,
    ("many", "1", "n"): 30,
    ("many", "1", "sub", "s"): 32,
    ("many", "1", "sub2", "0", "t"): 34,
}


def test_every_form() -> None:
    lines = Lines(TEXT)
    assert {path: lines.of(path) for path in EXPECTED} == EXPECTED
    assert ("fake",) not in lines.known()
    assert ("a", "x") not in lines.known()


def test_an_unknown_path_is_found_at_its_nearest_table() -> None:
    lines = Lines(TEXT)
    assert lines.of(("a", "b c", "missing")) == 25
    assert lines.of(("nowhere", "at", "all")) is None
    assert lines.of(()) is None


def test_every_key_that_tomli_finds_has_a_line() -> None:
    text = TEXT.replace(
        "inline = { e = 1, f = { g = 2 },\n           h.i = 3 }", "inline = { e = 1, h.i = 3 }"
    )
    known = Lines(text).known()

    def walk(value: object, path: tuple[str, ...]) -> None:
        if path:
            assert path in known, path
        if isinstance(value, dict):
            for key, below in value.items():
                walk(below, (*path, key))
        elif isinstance(value, list):
            for n, below in enumerate(value):
                walk(below, (*path, str(n)))

    walk(tomli.loads(text), ())


def test_nonsense_raises_nothing() -> None:
    for text in (
        "",
        "[",
        "[[",
        "a",
        "a =",
        "a = {",
        'a = "',
        "= 1",
        "a = [1,",
        "\x00",
        "[a]]\nb = 1",
        "a = 1\n][",
    ):
        Lines(text).of(("a",))
