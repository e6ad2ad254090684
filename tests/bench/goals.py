"""The goals, one row each: what is measured, in which scenario, and what is to be reached. Ratios within one round only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.harness import Round, Sample

Figure = Callable[[Round], float]
DELTAS = 200  # of an unpaced stream


@dataclass(frozen=True)
class Goal:
    """One row. `figure` raises KeyError where its samples are missing; `most` False: the figure must be at least `goal`."""

    key: str
    group: str
    what: str
    scenarios: tuple[str, ...]
    figure: Figure
    goal: float | None = None
    stretch: float | None = None
    unit: str = "x"
    most: bool = True
    peer: str = ""  # the peer it needs beside direct, nginx and ccm

    def reached(self, value: float) -> bool:
        """Whether a value fulfils the goal."""
        return self.goal is None or (value <= self.goal if self.most else value >= self.goal)


def quantile(sample: Sample, field: str, at: str = "p50") -> float:
    """A latency of a sample, in us."""
    return float(sample[field][at])


def added(r: Round, scenario: str, target: str, field: str = "tot") -> float:
    """What a target adds to `direct`, p50 in us."""
    return quantile(r[scenario, target], field) - quantile(r[scenario, "direct"], field)


def cpu(r: Round, scenario: str, target: str) -> float:
    """CPU of the target's processes per request, us."""
    sample = r[scenario, target]
    return float(1e6 * sample["cpu_s"] / sample["n"])


def cpu_delta(r: Round, scenario: str, target: str) -> float:
    """CPU per delta of a paced scenario, us."""
    sample = r[scenario, target]
    return float(1e6 * sample["cpu_s"] / sample["deltas"])


def _added_ratio(scenario: str, peer: str, target: str = "ccm", field: str = "tot") -> Figure:
    return lambda r: added(r, scenario, target, field) / max(1.0, added(r, scenario, peer, field))


def _cpu_ratio(scenario: str) -> Figure:
    return lambda r: cpu(r, scenario, "ccm") / max(1.0, cpu(r, scenario, "nginx"))


def _rate_ratio(scenario: str, peer: str, target: str = "ccm") -> Figure:
    return lambda r: float(r[scenario, target]["rps"] / r[scenario, peer]["rps"])


def _ratio(scenario: str, field: str, at: str, peer: str = "nginx", target: str = "ccm") -> Figure:
    return lambda r: (
        quantile(r[scenario, target], field, at) / max(1.0, quantile(r[scenario, peer], field, at))
    )


def _marginal(stream: str, whole: str, target: str) -> Figure:
    """CPU per delta of an unpaced stream: what it costs more than the same request without one."""
    return lambda r: (cpu(r, stream, target) - cpu(r, whole, target)) / DELTAS


def _delivered(scenario: str, target: str = "ccm") -> Figure:
    return lambda r: float(r[scenario, target]["dps"] / r[scenario, "direct"]["dps"])


def _slope(r: Round, target: str) -> float:
    """us per MB of body between 1 and 10 MB, beyond what `direct` takes."""
    return (added(r, "turns-1000", target) - added(r, "turns-100", target)) / 9.0


def _linear(r: Round) -> float:
    """The steepness of the last nine tenths of the bodies against that of the first tenth; 1 = linear."""
    first = (added(r, "turns-100", "ccm") - added(r, "turns-10", "ccm")) / 0.9
    return _slope(r, "ccm") / max(1.0, first)


def _of(scenario: str, field: str, target: str = "ccm") -> Figure:
    return lambda r: float(r[scenario, target][field])


GOALS: Sequence[Goal] = (
    Goal("tiny.added", "tiny", "1 small JSON, added p50, of nginx's", ("lat-tiny",), _added_ratio("lat-tiny", "nginx"), 3, 1.5),
    Goal("tiny.added_us", "tiny", "1 the same", ("lat-tiny",), lambda r: added(r, "lat-tiny", "ccm"), unit="us"),
    Goal("tiny.added.ccr", "tiny", "1 the same, of CCR's", ("lat-tiny",), _added_ratio("lat-tiny", "ccr2"), 1 / 8, peer="ccr2"),
    Goal("tiny.added.litellm", "tiny", "1 the same, of LiteLLM's", ("lat-tiny",), _added_ratio("lat-tiny", "litellm"), 1 / 120, peer="litellm"),
    Goal("big.added", "big", "2 146 KB pass-through, added p50, of nginx's", ("lat-big",), _added_ratio("lat-big", "nginx"), 2, 1),
    Goal("big.added_us", "big", "2 the same", ("lat-big",), lambda r: added(r, "lat-big", "ccm"), unit="us"),
    Goal("big.added.ccr", "big", "2 the same, of CCR's", ("lat-big",), _added_ratio("lat-big", "ccr2"), 1 / 300, peer="ccr2"),
    Goal("big.added.litellm", "big", "2 the same, of LiteLLM's", ("lat-big",), _added_ratio("lat-big", "litellm"), 1 / 120, peer="litellm"),
    Goal("tiny.cpu", "tiny", "3 CPU per small request, of nginx's", ("lat-tiny",), _cpu_ratio("lat-tiny"), 2.2, 1.3),
    Goal("tiny.cpu_us", "tiny", "3 the same", ("lat-tiny",), lambda r: cpu(r, "lat-tiny", "ccm"), unit="us"),
    Goal("big.cpu", "big", "3 CPU per 146 KB request, of nginx's", ("lat-big",), _cpu_ratio("lat-big"), 2, 1.3),
    Goal("big.cpu_us", "big", "3 the same", ("lat-big",), lambda r: cpu(r, "lat-big", "ccm"), unit="us"),
    Goal("tiny.p99", "tiny", "4 small JSON, p99, of nginx's", ("lat-tiny",), _ratio("lat-tiny", "tot", "p99"), 2, 1.2),
    Goal("rps.tiny", "rps", "5 64 clients, small: rate of nginx's", ("rps64-tiny",), _rate_ratio("rps64-tiny", "nginx"), 0.25, 0.6, most=False),
    Goal("rps.tiny.ccr", "rps", "5 the same, of CCR's", ("rps64-tiny",), _rate_ratio("rps64-tiny", "ccr2"), 10, most=False, peer="ccr2"),
    Goal("rps.tiny.litellm", "rps", "5 the same, of LiteLLM's", ("rps64-tiny",), _rate_ratio("rps64-tiny", "litellm"), 80, most=False, peer="litellm"),
    Goal("rps.big", "rps", "6 64 clients, 146 KB: rate of nginx's", ("rps64-big",), _rate_ratio("rps64-big", "nginx"), 0.5, 0.9, most=False),
    Goal("rps.big.ccr", "rps", "6 the same, of CCR's", ("rps64-big",), _rate_ratio("rps64-big", "ccr2"), 200, most=False, peer="ccr2"),
    Goal("rps.big.litellm", "rps", "6 the same, of LiteLLM's", ("rps64-big",), _rate_ratio("rps64-big", "litellm"), 120, most=False, peer="litellm"),
    Goal("ttft.added", "stream", "7 first text of a 146 KB stream, added, of nginx's", ("str1-big",), _added_ratio("str1-big", "nginx", field="ttfd"), 2.5, 1.2),
    Goal("ttft.added_us", "stream", "7 the same", ("str1-big",), lambda r: added(r, "str1-big", "ccm", "ttfd"), unit="us"),
    Goal("delta.cpu_us", "stream", "8 CPU per delta, unpaced", ("lat-big", "str1-big"), _marginal("str1-big", "lat-big", "ccm"), 5, 3, "us"),
    Goal("pace64.cpu", "paced", "8 CPU per delta, 64 streams at 10 ms, of nginx's", ("pace64",),
         lambda r: cpu_delta(r, "pace64", "ccm") / cpu_delta(r, "pace64", "nginx"), 1.4, 1.1),
    Goal("pace256.delivered", "paced", "9 256 streams at 10 ms, delivered of direct", ("pace256",), _delivered("pace256"), 0.995, 0.999, most=False),
    Goal("pace256.lag", "paced", "9 the same, lag p99 of nginx's", ("pace256",), _ratio("pace256", "lat", "p99"), 3, 1.2),
    Goal("pace1000.lost", "many", "10 1,000 streams at 100 ms: failed", ("pace1000",), _of("pace1000", "err"), 0, unit=""),
    Goal("pace1000.lag", "many", "10 the same, lag p99 of nginx's", ("pace1000",), _ratio("pace1000", "lat", "p99"), 2.5, 1),
    Goal("pace1000.rss", "many", "10 the same, RSS", ("pace1000",), _of("pace1000", "rss"), 50, 30, "MB"),
    Goal("hold5000.lost", "hold", "11 5,000 streams at 1 delta/s: failed", ("hold5000",), _of("hold5000", "err"), 0, unit=""),
    Goal("hold5000.rss", "hold", "11 the same, RSS", ("hold5000",), _of("hold5000", "rss"), 60, unit="MB"),
    Goal("chat.added_us", "translate", "12 146 KB to chat, added p50", ("lat-big",), lambda r: added(r, "lat-big", "ccm-tr"), 2200, 1600, "us"),
    Goal("chat.cpu_us", "translate", "12 the same, CPU", ("lat-big",), lambda r: cpu(r, "lat-big", "ccm-tr"), unit="us"),
    Goal("chat.added.ccr", "translate", "12 the same, of CCR's", ("lat-big",), _added_ratio("lat-big", "ccr2-tr", "ccm-tr"), 1 / 20, peer="ccr2-tr"),
    Goal("chat.added.litellm", "translate", "12 the same, of LiteLLM's", ("lat-big",), _added_ratio("lat-big", "litellm-tr", "ccm-tr"), 1 / 10, peer="litellm-tr"),
    Goal("chat.delta_us", "translate", "12 CPU per translated delta", ("lat-big", "str1-big"), _marginal("str1-big", "lat-big", "ccm-tr"), 15, 8, "us"),
    Goal("chat.delivered", "translate", "12 64 translated streams, delivered of direct", ("pace64",), _delivered("pace64", "ccm-tr"), 0.99, most=False),
    Goal("turns.slope", "turns", "16 time per MB of a conversation, of nginx's", ("turns-10", "turns-100", "turns-1000"),
         lambda r: _slope(r, "ccm") / max(1.0, _slope(r, "nginx")), 3),
    Goal("turns.linear", "turns", "16 steepness of 1-10 MB against 0.1-1 MB", ("turns-10", "turns-100", "turns-1000"), _linear, 2),
    Goal("workers.tiny", "workers", "17 two processes, 64 clients, small: of one", ("rps64-tiny",), _rate_ratio("rps64-tiny", "ccm", "ccm-2w"), 1.35, 1.7, most=False, peer="ccm-2w"),
    Goal("workers.big", "workers", "17 the same, 146 KB", ("rps64-big",), _rate_ratio("rps64-big", "ccm", "ccm-2w"), 1.35, 1.7, most=False, peer="ccm-2w"),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(goal.group for goal in GOALS))
TRANSLATED = ("lat-big", "str1-big", "pace64", "pace256")  # scenarios that ccm-tr runs too


@dataclass(frozen=True)
class Line:
    """A goal's result over all rounds: the median, and its spread."""

    goal: Goal
    median: float
    least: float
    greatest: float


def lines(goals: Sequence[Goal], rounds: Sequence[Round]) -> list[Line]:
    """The median of the per-round figures of every goal that was measured at all."""
    out = []
    for goal in goals:
        values = []
        for r in rounds:
            try:
                values.append(goal.figure(r))
            except (KeyError, ZeroDivisionError):
                continue  # a sample is missing: that target or scenario was not asked for, or failed
        if values:
            out.append(Line(goal, statistics.median(values), min(values), max(values)))
    return out


def table(found: Sequence[Line]) -> str:
    """The lines as a markdown table."""
    rows = ["| figure | median | least .. greatest | goal | stretch | |", "|---|---|---|---|---|---|"]
    for line in found:
        goal = line.goal
        sign = "<=" if goal.most else ">="
        wanted = "" if goal.goal is None else f"{sign} {number(goal.goal, goal.unit)}"
        stretch = "" if goal.stretch is None else number(goal.stretch, goal.unit)
        mark = "" if goal.goal is None else "reached" if goal.reached(line.median) else "NOT REACHED"
        spread = f"{number(line.least, '')} .. {number(line.greatest, '')}"
        rows.append(
            f"| {goal.what} | {number(line.median, goal.unit)} | {spread} | {wanted} | {stretch} | {mark} |"
        )
    return "\n".join(rows)


def number(value: float, unit: str) -> str:
    """A figure with about three digits and its unit."""
    if 0 < value < 0.1:
        return f"1/{1 / value:.0f}" if unit == "x" else f"{value:.4f}{unit}"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text}x" if unit == "x" else f"{text} {unit}".strip()
