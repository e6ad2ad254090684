"""Text for people: widths, units, colours, and no terminal tricks from strangers."""

from __future__ import annotations

import io

import pytest

from ccm.cli import render
from ccm.cli.render import Cell, Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PIPE = Screen()


def test_columns_are_aligned_and_lines_end_clean() -> None:
    text = render.table(["NAME", "N", "WHY"], [["a", "5", ""], ["longer", "12345", "x"]], PIPE, right=(1,))
    assert text.split("\n") == ["NAME        N  WHY", "a           5", "longer  12345  x"]


def test_wide_and_combining_characters_keep_columns() -> None:
    text = render.table(["A", "B"], [["漢字", "x"], ["e\u0301", "y"], ["abcd", "z"]], PIPE)
    lines = text.split("\n")
    assert [
        render.cell_width(line[: line.index(end)]) for line, end in zip(lines[1:], "xyz", strict=True)
    ] == [6, 6, 6]


def test_a_narrow_terminal_cuts_the_widest_columns_only() -> None:
    rows = [["openai", "x" * 100, "y" * 60]]
    lines = render.table(["P", "LONG", "ALSO"], rows, Screen(width=60)).split("\n")
    assert max(map(len, lines)) <= 60
    assert "openai" in lines[1] and lines[1].count("…") == 2
    assert "x" * 100 in render.table(["P", "LONG", "ALSO"], rows, PIPE)


def test_a_terminal_that_is_far_too_narrow_does_not_hang() -> None:
    assert render.table(["A", "B"], [["x" * 50, "y" * 50]], Screen(width=5))


def test_no_rows_no_table() -> None:
    assert render.table(["A"], [], PIPE) == ""


def test_colour_does_not_count_as_width() -> None:
    plain = render.table(["A", "B"], [[Cell("ok", "green"), "x"]], Screen(width=80))
    coloured = render.table(["A", "B"], [[Cell("ok", "green"), "x"]], Screen(width=80, colour=True))
    assert "\x1b[32mok\x1b[0m" in coloured and "\x1b" not in plain
    for code in ("\x1b[32m", "\x1b[2m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_hostile_texts_are_escaped() -> None:
    text = render.table(
        ["WHY"], [["\x1b]0;owned\x07\r\nline"], [Cell("\u202eevil", "red")]], Screen(200, True)
    )
    assert "\x1b]" not in text and "\x07" not in text and "\r" not in text and "\u202e" not in text
    assert len(text.split("\n")) == 3 and "\\x1b]0;owned" in text


@pytest.mark.parametrize(
    ("stream", "environ", "width", "colour"),
    [
        (io.StringIO(), {}, None, False),
        (Terminal(), {"TERM": "xterm"}, 80, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, 80, False),
        (Terminal(), {"TERM": "dumb"}, 80, False),
    ],
)
def test_what_the_screen_can(stream, environ, width, colour, monkeypatch) -> None:
    monkeypatch.setattr(
        render.shutil, "get_terminal_size", lambda default: __import__("os").terminal_size(default)
    )
    assert render.screen(stream, environ) == Screen(width, colour)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0ms"), (0.3404, "340ms"), (1.0, "1s"), (2.34, "2.3s"), (59.6, "1m"), (75, "1m 15s"), (3600, "1h"),
     (11520, "3h 12m"), (90000, "1d 1h"), (86400, "1d")],
)  # fmt: skip
def test_durations(seconds, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (12345, "12.3k"), (999_999, "1M"), (4_560_000, "4.56M"), (123_456, "123k"),
     (100_000, "100k"), (7_000_000_000, "7G")],
)  # fmt: skip
def test_counts(number: int, text: str) -> None:
    assert render.count(number) == text


def test_clock_shows_the_date_of_old_things() -> None:
    assert len(render.clock(1_000_000, 1_000_100)) == 8
    assert render.clock(1_000_000, 2_000_000).startswith("1970-01-")


@pytest.mark.parametrize(
    ("text", "width", "cut"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字漢", 4, "漢…"), ("a  b", 3, "a…")]
)
def test_cut(text: str, width: int, cut: str) -> None:
    assert render.cut(text, width) == cut


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (1.0, "100%"), (0.9999, "99.9%"), (0.5, "50%"), (0.0, "0%"), (0.6666, "66.6%")],
)
def test_a_share_is_never_rounded_up_to_all(share: float | None, text: str) -> None:
    assert render.percent(share) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (0.0042, "$0.0042"),
        (0.4, "$0.40"),
        (12.3, "$12.30"),
        (1234.5, "$1,234.50"),
        (0.999, "$1.00"),
    ],
)
def test_money_has_as_many_digits_as_it_needs(usd: float | None, text: str) -> None:
    assert render.money(usd) == text
