"""The faults that a drill can put into a provider's path: their names, and what each does. Data only.

Here because the command line, the control table and the mechanism name the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from ccm.shape import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `status` answers with that HTTP status; `after` events pass before it strikes (None: it
    strikes at a moment of its own); `delay_s` is how late the first content comes."""

    name: str
    help: str
    status: int = 0
    after: int | None = None
    delay_s: float = 0.0


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("429", "it answers that it is asked too often", 429),
        Fault("500", "it answers that it failed inside", 500),
        Fault("503", "it answers that it is not available", 503),
        Fault("529", "it answers that it is overloaded", 529),
        Fault("slow", "its first content comes late", delay_s=10.0),
        Fault("cut", "its connection breaks in mid-answer", after=5),
        Fault("garbage", "it sends bytes that are no answer", after=0),
        Fault("hang", "it takes the request and falls silent", after=0),
        Fault("refuse", "it takes no connection"),
    )
}

DRILL_REQUESTS = 1  # where neither a number nor a time is given
DRILL_S = 60.0
DRILL_MOST_S = 3600.0
DRILL_MOST_REQUESTS = 1000
DRILL_MOST_DELAY_S = 600.0
