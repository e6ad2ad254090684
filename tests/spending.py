"""Finished requests as the usage store gets them: made up, but settled like real ones."""

from __future__ import annotations

import random
import time
from typing import Any

from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord
from ccm.usage import prices

PRICE = Price(3.0, 15.0, 0.3, 3.75, 6.0)
CHEAP = Price(0.25, 2.0, 0.025)


def local(text: str) -> float:
    """Epoch seconds of a local "2026-11-22 10:30"."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


def record(id: str, at: float, **fields: Any) -> RequestRecord:
    """A complete request answered by anthropic at PRICE: 1,000 input and 100 output tokens, 0.0045 USD. Its one
    attempt stands for what `fields` say of provider, endpoint and model, unless they hold `attempts`."""
    provider = fields.get("provider", "anthropic")
    told = {
        "provider": provider, "endpoint": provider, "model": "claude-sonnet-4-5", "session": "s1", "status": 200,
        "ending": "complete", "usage": Usage(input=1000, output=100), "price": PRICE, "list_price": PRICE,
        "total_s": 1.5, **fields,
    }  # fmt: skip
    told.setdefault("attempts", [Attempt(told["endpoint"], told["model"], "200", 1.5)])
    made = RequestRecord(id=id, at=at, **told)
    prices.settle(made)
    return made


def many(number: int, until: float, days: float, seed: int = 7) -> list[RequestRecord]:
    """Requests of a busy user, oldest first: two providers, four models, five classes, sessions of about 50 requests,
    some failed over, some cut off, some without a price."""
    dice = random.Random(seed)
    made = []
    for n in range(number):
        at = until - days * 86400 * (1 - n / number)
        provider, model, price = dice.choice(
            [
                ("anthropic", "claude-sonnet-4-5", PRICE),
                ("anthropic", "claude-haiku-4-5", CHEAP),
                ("openai", "gpt-5.4", CHEAP),
                ("local", "qwen3", None),
            ]
        )
        attempts = [Attempt(provider, model, "200", 2.0)]
        if dice.random() < 0.1:
            cut = Attempt("openai", "gpt-5.4", "first_content_timeout", 1.0, assumed_billed=True, price=CHEAP)
            cut.usage = Usage(input=dice.randrange(5000), output=dice.randrange(50), estimated=True)
            attempts.insert(0, cut)
        if dice.random() < 0.1:
            attempts.insert(0, Attempt("anthropic", "claude-sonnet-4-5", "529", 0.2))
        made.append(
            record(
                f"req_{seed}_{n:024d}",
                at,
                provider=provider,
                model=model,
                price=price,
                attempts=attempts,
                session=f"session-{n // 50}-{dice.randrange(3)}",
                project=dice.choice(["", "alpha", "beta"]),
                request_class=dice.choice(["default", "background", "think", "subagent", "title"]),
                usage=Usage(
                    dice.randrange(9000), dice.randrange(90000), dice.randrange(900), 0, dice.randrange(900)
                ),
            )
        )
    return made
