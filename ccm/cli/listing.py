"""What the lists of the catalogue share: the user's configuration where there is one, and figures as text.

A configuration that can't be read does not stop a list: the catalogue is there without it, and it is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from ccm.catalog.models import ModelBook, bundled
from ccm.config import load
from ccm.errors import ConfigError
from ccm.model import Price, Snapshot


def add_arguments(parser: argparse.ArgumentParser, config_help: str) -> None:
    """--config and --json."""
    parser.add_argument("--config", metavar="FILE", help=config_help)
    parser.add_argument(
        "--json", action="store_true", help="for programs: one JSON object on standard output"
    )


def configured(
    config: str | None, env: Mapping[str, str], by_environment: bool = True
) -> tuple[Snapshot | None, ModelBook]:
    """The snapshot of the user's configuration file and its model book; None and the bundled book without one.

    Raises ConfigError for a file that was named and is not there or not right; one found by itself is passed over with
    a word on standard error. `by_environment`: without a file, the providers that keys in the environment switch on.
    """
    path: Path | None = None
    try:
        path = load.find_path(config, env, load.home_of(env))
        if path is None:
            return (load.from_environment(env) if by_environment else None), bundled()
        snapshot = load.load(path, env)
        return snapshot, load.book(snapshot)
    except ConfigError:
        if config:
            raise
        print(
            f"ccm: {path or '$CCM_CONFIG'} is passed over: it has problems (see ccm check)", file=sys.stderr
        )
        return None, bundled()


def tokens(number: int | None) -> str:
    """`200k`, `1M`, `1.05M`; "-" for None."""
    if number is None:
        return "-"
    if number >= 1_000_000:
        return f"{number / 1_000_000:.2f}".rstrip("0").rstrip(".") + "M"
    return f"{number // 1000}k" if number >= 10_000 else str(number)


def amount(price: float | None) -> str:
    """A price per million tokens: `4`, `0.25`; "-" where it is unknown, which is not the same as free."""
    return "-" if price is None else f"{price:.4f}".rstrip("0").rstrip(".")


def price_json(price: Price) -> dict[str, object]:
    """A price for programs: USD per million tokens, null = unknown."""
    return {
        "input": price.input,
        "output": price.output,
        "cache_read": price.cache_read,
        "cache_write_5m": price.cache_write_5m,
        "cache_write_1h": price.cache_write_1h,
        "above": [
            {"input_tokens": limit, "input": first, "output": second} for limit, first, second in price.above
        ],
    }
