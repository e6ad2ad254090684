"""One finding of `ccm doctor`: how bad, about what, what it is, what to do."""

from __future__ import annotations

from ccm.shape import dataclass

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
LEVELS = (OK, NOTE, WARNING, PROBLEM)  # from best to worst


@dataclass(frozen=True, slots=True)
class Finding:
    """`topic` is one word of a few; `fix` "" where nothing is to be done. Texts may hold anything: who shows them
    redacts and escapes them."""

    level: str
    topic: str
    text: str
    fix: str = ""
