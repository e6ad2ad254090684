"""A stream folded into the message it makes, for a client that asked for a message (some providers only stream)."""

from __future__ import annotations

from ccm.messages.events import Event
from ccm.messages.fold import Fold


class Folding:
    """A Renderer that writes nothing: it folds the events into the message they make."""

    content_type = ""

    def __init__(self) -> None:
        self.fold = Fold()

    def render(self, event: Event) -> bytes:
        """Takes the event."""
        self.fold.add(event)
        return b""

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """Nothing: the failure is the caller's to tell."""
        return b""

    def alive(self) -> bytes:
        """Nothing: nobody reads along."""
        return b""
