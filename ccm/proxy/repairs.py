"""What the last hour's refusals taught: which repairs a provider's model needs, so that the next request has them already.

Only repairs that follow from the nature of a model are kept (`Repair.lasting`), and only for an hour: providers change,
and a lesson that was wrong must not last. The lock is a leaf.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ccm.dialects.repair import Repair

LIFETIME_S = 3600.0
MOST_MODELS = 512
MOST_REPAIRS = 32  # of one model; no model needs a tenth of that

Key = tuple[str, str]


class Repairs:
    """(provider name, model) -> the repairs its requests need, in the order they were learned."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._models: OrderedDict[Key, dict[Repair, float]] = OrderedDict()  # repair -> when it is forgotten

    def known(self, provider: str, model: str) -> tuple[Repair, ...]:
        """The repairs to apply before sending."""
        if not self._models:  # the common case costs no lock
            return ()
        now = self._clock()
        with self._lock:
            learned = self._models.get((provider, model))
            if learned is None:
                return ()
            for repair in [r for r, until in learned.items() if until <= now]:
                del learned[repair]
            if not learned:
                del self._models[provider, model]
                return ()
            self._models.move_to_end((provider, model))
            return tuple(learned)

    def remember(self, provider: str, model: str, repair: Repair) -> bool:
        """Keeps a lasting repair for an hour from now; whether it was kept."""
        if not repair.lasting:
            return False
        until = self._clock() + LIFETIME_S
        with self._lock:
            learned = self._models.setdefault((provider, model), {})
            self._models.move_to_end((provider, model))
            if repair not in learned and len(learned) >= MOST_REPAIRS:
                del learned[next(iter(learned))]
            learned[repair] = until
            while len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
        return True

    def clear(self) -> None:
        """Forgets everything (`ccmctl reset`, a new configuration)."""
        with self._lock:
            self._models.clear()

    def __len__(self) -> int:
        return len(self._models)
