"""The log: one line per event, whatever the texts hold; losing lines instead of waiting; no keys."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.access import MAX_KNOWN, AccessLine
from ccm.observe.log import Log, escape, fields_of, open_log, redirect, stamp
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor
from ccm.observe.sink import LINE_BYTES, DescriptorSink, FileSink
from tests.spending import many

KEY = "kk-canary-0123456789abcdef"


class Lines:
    """A sink that keeps lines, and refuses them while `full`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.full = False

    def write(self, line: bytes) -> bool:
        if not self.full:
            self.lines.append(line)
        return not self.full

    def close(self) -> None:
        self.full = True


def make(form: str = "text", level: str = "info") -> tuple[Log, Lines]:
    sink, redactor = Lines(), Redactor()
    redactor.register(KEY)
    return Log(sink, redactor, level, form, clock=lambda: 1764000000.1239), sink


def record() -> RequestRecord:
    return RequestRecord(
        id="req_1",
        at=1.0,
        asked_model="claude-opus-5-5",
        stream=True,
        status=200,
        ending="complete",
        provider="openai",
        endpoint="openai#2",
        model="gpt-5.2",
        route="priority",
        attempts=[Attempt("anthropic", "m", "529", 0.1), Attempt("openai#2", "gpt-5.2", "200", 1.0)],
        first_content_s=0.25,
        total_s=1.5,
        usage=Usage(input=10, cache_read=7, output=20),
        stop_reason="end_turn",
    )


def test_the_access_line() -> None:
    log, sink = make()
    log.request(record())
    assert sink.lines == [
        b"2025-11-24T16:00:00.123Z info request id=req_1 status=200 ending=complete by=provider phase=end "
        b"surface=messages stream=yes asked=claude-opus-5-5 provider=openai#2 model=gpt-5.2 route=priority "
        b'attempts="anthropic=529,openai#2=200" stop=end_turn attempts_ms=100,1000 first_ms=250 total_ms=1500 '
        b"in=10 cached=7 out=20 usd=unknown\n"
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_quick_line_is_the_long_one(form: str) -> None:
    """What is written for a request without an error is what `fields_of` says of it, figure by figure."""
    log, sink = make(form)
    quick = AccessLine(Redactor(), form)
    made = many(200, 1764000000.0, 1.0)
    costs = (
        0.0,
        3e-7,
        0.00009999951,
        0.0001,
        0.0001234565,
        0.1,
        0.25,
        1.0,
        12.3000004,
        999999.9999999,
        1e6,
        3e21,
    )
    for n, one in enumerate(made):
        one.id, one.error, one.warned = f"req_{n}", "", []
        one.cost_usd = costs[n % len(costs)] if n % 3 else one.cost_usd
        one.longest_gap_s = n / 7 if n % 2 else None
        one.usage.estimated = n % 5 == 0
    for one in made:
        log._emit(1, "request", fields_of(one))
        assert quick.line(log._clock(), "info", one) == sink.lines[-1].decode()


def test_the_access_line_as_json_keeps_numbers() -> None:
    log, sink = make("json")
    log.request(record())
    line = json.loads(sink.lines[0])
    assert line["event"] == "request" and line["level"] == "info"
    assert (line["status"], line["first_ms"], line["out"]) == (200, 250, 20)
    assert line["attempts"] == "anthropic=529,openai#2=200"


VARIANTS = [
    {},
    {"ending": "client_gone", "first_content_s": None, "attempts": [Attempt("a", "m", "cancelled", 0.1)]},
    {"ending": "client_gone", "longest_gap_s": 2.5, "usage": Usage(output=3, estimated=True)},
    {
        "ending": "refused",
        "status": 401,
        "attempts": [],
        "first_content_s": None,
        "stop_reason": None,
        "usage": Usage(),
    },
    {
        "losses": ["top_k=dropped", "x=y"],
        "cost_usd": 0.0123456789,
        "project": "a b",
        "request_class": "think",
    },
    {"cost_usd": 1e-6, "usage": Usage(input=1, cache_read=2, cache_write_5m=3, cache_write_1h=4, output=5)},
    {
        "asked_model": 'evil" status=1\n\x1b[31m',
        "model": f"x {KEY}",
        "route": "sk-ant-api03-0123456789abcdefgh",
    },
    {"asked_model": "nul\x00l", "endpoint": "", "route": "ü 漢\udc80\u202e", "cost_usd": 0.0},
    {"model": "m" * 5000},
]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_short_way_says_what_the_long_way_says(form: str, variant: dict) -> None:
    asked = record()
    for name, value in variant.items():
        setattr(asked, name, value)
    quick, lines = make(form)
    for _ in range(2):  # the second one comes from what was kept
        quick.request(asked)
    slow, expected = make(form)
    slow.info("request", **fields_of(asked))
    assert lines.lines == expected.lines * 2
    assert KEY.encode() not in lines.lines[1] and b"api03" not in lines.lines[1]
    if form == "json":
        seen = json.loads(lines.lines[1])
        assert seen["total_ms"] == 1500 and seen["status"] == asked.status


def test_a_key_that_becomes_known_is_masked_in_lines_that_were_kept() -> None:
    sink, redactor = Lines(), Redactor()
    log = Log(sink, redactor)
    asked = record()
    asked.route = "by plain-words-as-key-0123"
    log.request(asked)
    redactor.register("plain-words-as-key-0123")
    log.request(asked)
    assert b"plain-words-as-key-0123" in sink.lines[0] and b"words-as" not in sink.lines[1]


@pytest.mark.parametrize(
    ("ending", "first", "attempts", "stream", "by", "phase"),
    [
        ("complete", 0.1, 1, True, "provider", "end"),
        ("refused", None, 0, True, "ccm", "request"),
        ("failed", None, 2, True, "provider", "waiting"),
        ("broken", 0.1, 1, True, "provider", "stream"),
        ("client_gone", None, 0, True, "client", "request"),
        ("client_gone", None, 1, True, "client", "waiting"),
        ("client_gone", 0.1, 1, False, "client", "answer"),
        ("stopped", 0.1, 1, True, "ccm", "stream"),
    ],
)
def test_who_ended_it_in_which_phase(
    ending: str, first: float | None, attempts: int, stream: bool, by: str, phase: str
) -> None:
    asked = record()
    asked.ending, asked.first_content_s, asked.stream = ending, first, stream
    asked.attempts = asked.attempts[:attempts]
    fields = fields_of(asked)
    assert (fields["by"], fields["phase"]) == (by, phase)


def test_what_is_kept_is_bounded() -> None:
    log, sink = make()
    for number in range(3 * MAX_KNOWN):
        asked = record()
        asked.asked_model = f"m{number}"
        log.request(asked)
    assert len(sink.lines) == 3 * MAX_KNOWN and b"asked=m7 " in sink.lines[7]
    assert len(log._access._known) <= MAX_KNOWN


def test_a_full_disk_costs_lines_and_is_told_of() -> None:
    sink = FileSink("/dev/full")
    log = Log(sink, Redactor())
    log.info("lost")
    log.request(record())
    assert log.dropped == 2
    log.close()


def test_a_failed_request_is_a_warning() -> None:
    log, sink = make(level="warning")
    log.request(record())
    failed = record()
    failed.ending, failed.error = "failed", "no provider answered"
    log.request(failed)
    assert len(sink.lines) == 1
    assert b" warning request " in sink.lines[0] and b'error="no provider answered"' in sink.lines[0]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "text",
    [
        "a\nb forged=1",
        "\x1b[31mred",
        "x\r\ny",
        "z\x9b2J",
        "bidi\u202eevil",
        "sep\u2028arated",
        "nul\x00",
        "\udc80",
    ],
)
def test_hostile_text_stays_in_one_harmless_line(form: str, text: str) -> None:
    log, sink = make(form)
    log.info("event", model=text, next="1")
    assert len(sink.lines) == 1
    line = sink.lines[0].decode("utf-8")
    assert line.count("\n") == 1 and line.endswith("\n")
    for char in "\r\x1b\x9b\u202e\u2028\x00":
        assert char not in line
    assert line.rstrip().endswith("next=1" if form == "text" else '"next": "1"}')


def test_values_cannot_imitate_fields() -> None:
    log, sink = make()
    log.info("event", model='x" status=200 y="', status=500)
    assert sink.lines[0].endswith(b'model="x\\" status=200 y=\\"" status=500\n')


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_carries_a_key(form: str) -> None:
    log, sink = make(form)
    log.error("e", a=f"x {KEY} y", b=KEY, c="sk-ant-api03-0123456789abcdefgh", d=["nested", KEY])
    try:
        raise RuntimeError(f"cannot use {KEY}")
    except RuntimeError as error:
        log.fault("handler failed", error)
    whole = b"".join(sink.lines)
    assert KEY.encode() not in whole and b"api03-0123" not in whole
    assert b"kk-can...cdef" in whole
    assert b"handler failed" in whole and b"Traceback" in whole


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_are_bounded_and_keep_both_ends(form: str) -> None:
    log, sink = make(form)
    log.error("big", id="first", trace="ü" * 9000 + "THE-END")
    assert len(sink.lines[0]) <= LINE_BYTES and sink.lines[0].endswith(b"\n")
    assert b"first" in sink.lines[0]
    if form == "text":
        assert b"THE-END" in sink.lines[0]
    else:
        json.loads(sink.lines[0])


def test_lost_lines_are_counted_and_told_once() -> None:
    log, sink = make()
    sink.full = True
    for _ in range(3):
        log.info("lost")
    sink.full = False
    log.info("kept")
    log.info("after")
    assert log.dropped == 3
    assert [line.split(b" ", 2)[2] for line in sink.lines] == [
        b"kept\n",
        b"log lines dropped count=3\n",
        b"after\n",
    ]


def test_a_value_that_cannot_be_written_does_not_raise() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log, sink = make()
    log.info("event", value=Bad())
    assert b"unwritable line: RuntimeError" in sink.lines[0]


def test_levels() -> None:
    log, sink = make(level="warning")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.level = "debug"
    log.debug("d2")
    assert [line.split()[2] for line in sink.lines] == [b"w", b"d2"]
    with pytest.raises(ValueError):
        log.level = "loud"
    assert log.level == "debug"


def test_a_full_pipe_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    sink = DescriptorSink(writer)
    line = b"x" * (LINE_BYTES - 1) + b"\n"
    written = 0
    while sink.write(line):
        written += 1
        assert written < 1000
    assert written > 0
    os.read(reader, LINE_BYTES)
    assert sink.write(line)
    os.close(reader)
    assert not sink.write(line)  # nobody reads: EPIPE, not a signal, not an exception
    os.close(writer)
    sink.close()
    assert not sink.write(line)


def test_a_closed_descriptor_is_no_sink() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    assert not DescriptorSink(writer).write(b"x\n")
    os.close(reader)


def test_the_shared_description_stays_blocking() -> None:
    reader, writer = os.pipe()
    sink = DescriptorSink(writer)
    assert sink.write(b"x\n") and os.get_blocking(writer)
    sink.close()
    os.close(reader)
    os.close(writer)


def test_two_writers_of_one_redirected_file_do_not_overwrite_each_other(tmp_path) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)  # as by `2>out`: no O_APPEND
    sink = DescriptorSink(fd)
    for number in range(3):
        assert sink.write(b"log %d\n" % number)
        os.write(fd, b"other %d\n" % number)
    sink.close()
    os.close(fd)
    assert (tmp_path / "out").read_text() == "log 0\nother 0\nlog 1\nother 1\nlog 2\nother 2\n"


def test_a_full_socket_is_not_waited_for() -> None:
    near, far = socket.socketpair()
    sink = DescriptorSink(near.fileno())
    line = b"x" * (LINE_BYTES - 1) + b"\n"
    written = 0
    while sink.write(line):
        written += 1
        assert written < 10_000
    assert written > 0 and near.gettimeout() is None
    for end in (near, far):
        end.close()
    sink.close()


def test_the_file_rotates_and_keeps_so_many(tmp_path) -> None:
    path = tmp_path / "ccm.log"
    sink = FileSink(str(path), limit=100, keep=3)
    for number in range(40):
        assert sink.write(b"%09d\n" % number)
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ccm.log", "ccm.log.1", "ccm.log.2"]
    assert path.read_bytes() == b""
    assert (tmp_path / "ccm.log.1").read_bytes().split()[-1] == b"000000039"
    assert (tmp_path / "ccm.log.2").read_bytes().split() == [b"%09d" % n for n in range(20, 30)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_open_log_chooses_by_configuration_then_environment(tmp_path) -> None:
    path = tmp_path / "x.log"
    log = open_log(Redactor(), environ={"CCM_LOG_FILE": str(path), "CCM_LOG_FORMAT": "json"})
    log.info("hello", n=1)
    log.close()
    assert json.loads(path.read_text())["n"] == 1
    other = tmp_path / "y.log"
    log = open_log(
        Redactor(), "info", "text", str(other), {"CCM_LOG_FILE": str(path), "CCM_LOG_FORMAT": "json"}
    )
    log.info("hello", n=2)
    log.close()
    assert other.read_text().endswith("info hello n=2\n")


def test_a_log_file_that_cannot_be_opened_stops_nothing(tmp_path, capfd) -> None:
    log = open_log(Redactor(), path=str(tmp_path / "no" / "x.log"), environ={})
    log.info("still here")
    log.close()
    error = capfd.readouterr().err
    assert "log file not usable" in error and "No such file" in error and "still here" in error


def test_stamp_and_escape() -> None:
    assert stamp(0.0005) == "1970-01-01T00:00:00.000Z"
    assert escape("plain ü 漢") == "plain ü 漢"
    assert escape("\x1b\x7f\u202e") == "\\x1b\\x7f\\u202e"


def test_a_log_goes_on_in_another_file_and_form(tmp_path: Path) -> None:
    log = open_log(Redactor(), path=str(tmp_path / "a.log"), environ={})
    log.info("one")
    close = redirect(log, "json", str(tmp_path / "b.log"), {})
    log.info("two")
    close()
    with pytest.raises(OSError):
        redirect(log, "", str(tmp_path / "nowhere" / "c.log"), {})
    log.info("three")
    log.close()
    assert "one" in (tmp_path / "a.log").read_text() and "two" not in (tmp_path / "a.log").read_text()
    assert [json.loads(line)["event"] for line in (tmp_path / "b.log").read_text().splitlines()] == [
        "two",
        "three",
    ]
