"""Whether the providers can be reached from here: name, connection, TLS and an HTTP answer, each through its own proxy
and with its own certificates, all at the same time. No key is sent, so any status will do; the clock is compared with
theirs. Imported only when the network is asked: it needs the HTTP libraries."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests

from ccm.cli import render
from ccm.cli.findings import NOTE, OK, PROBLEM, WARNING, Finding
from ccm.config.proxies import from_environment
from ccm.model import Provider
from ccm.shape import dataclass
from ccm.upstream.session import make_session

TIMEOUT_S = 6.0
_SLOW_S = 2.0
_SKEW_NOTE_S, _SKEW_BAD_S = 30.0, 240.0  # signed requests are refused from five minutes on
# (words of an error, what it means, what to do); the first that matches
_WORDS = (
    (("CERTIFICATE_VERIFY", "certificate verify"), "its certificate is not trusted",
     "behind a company proxy: name its authority with ca_bundle in the provider's table; else correct the clock"),
    (("Name or service", "getaddrinfo", "NameResolution", "nodename", "resolve"), "its name can't be resolved",
     "check the network, DNS, and base_url"),
    (("Proxy", "proxy"), "the HTTP proxy does not let us through", "check proxy and proxy_auth_env in its table"),
    (("Connection refused",), "nobody listens there", "start it, or correct base_url"),
    (("timed out", "Timeout"), "no answer in time", "check the network and firewall; a proxy may be needed"),
    (("unreachable",), "the network is unreachable", "check the network; a proxy may be needed"),
    (("SSL", "TLS", "ssl"), "TLS fails", "check base_url (http or https), ca_bundle and client_cert"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of asking one provider: an HTTP status, or words."""

    provider: Provider
    status: int = 0
    seconds: float = 0.0
    error: str = ""
    skew_s: float | None = None


def findings(providers: Sequence[Provider], environ_proxy: dict[str, str]) -> Iterator[Finding]:
    """One finding for each provider, and one for the clock. Blocks for TIMEOUT_S and a moment at most.

    `environ_proxy`: the environment, to tell where a proxy is set that a provider does not use.
    """
    reached = ask_all(providers)
    for one in reached:
        yield _finding(one, environ_proxy)
    skews = [one.skew_s for one in reached if one.skew_s is not None]
    if skews:
        skew = sorted(skews)[len(skews) // 2]
        level = OK if abs(skew) < _SKEW_NOTE_S else WARNING if abs(skew) < _SKEW_BAD_S else PROBLEM
        told = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the providers' clocks"
        told = told if level != OK else "agrees with the providers'"
        yield Finding(level, "clock", told, "" if level == OK else "set it: timedatectl set-ntp true")


def ask_all(providers: Sequence[Provider], timeout_s: float = TIMEOUT_S) -> list[Reached]:
    """Every provider's answer in their order, after the time-out at the latest."""
    answers: queue.SimpleQueue[tuple[int, Reached]] = queue.SimpleQueue()
    for number, provider in enumerate(providers):
        threading.Thread(
            target=lambda n, p: answers.put((n, _ask(p, timeout_s))),
            args=(number, provider),
            name=f"ccm-reach-{number}",
            daemon=True,  # what hangs in a resolver must not hold us
        ).start()
    found: dict[int, Reached] = {}
    end = time.monotonic() + timeout_s + 1.0
    while len(found) < len(providers):
        try:
            number, answer = answers.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            break
        found[number] = answer
    late = "timed out"
    return [found.get(number, Reached(p, error=late)) for number, p in enumerate(providers)]


def _ask(provider: Provider, timeout_s: float) -> Reached:
    began = time.monotonic()
    try:
        with make_session(provider.options, provider.base_url.startswith("https:")) as session:
            response = session.get(
                provider.base_url, timeout=timeout_s, allow_redirects=False, stream=True,
                headers={"user-agent": "ccm-doctor", "accept": "application/json"},
            )  # fmt: skip
            seconds = time.monotonic() - began
            skew = _skew(response.headers.get("date", ""))
            response.close()
            return Reached(provider, response.status_code, seconds, "", skew)
    except (requests.RequestException, OSError, ValueError) as error:
        return Reached(provider, 0, time.monotonic() - began, f"{type(error).__name__}: {error}")


def _skew(date: str) -> float | None:
    """How far our clock is ahead of theirs; they tell full seconds."""
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() - 0.5
    except (ValueError, TypeError, IndexError):
        return None


def _finding(one: Reached, env: dict[str, str]) -> Finding:
    name = one.provider.name
    host = urlsplit(one.provider.base_url).netloc
    proxy = str(one.provider.options.get("proxy") or "")
    through = f" through {proxy}" if proxy else ""
    if one.status:
        told = f"{name}: {host} answers{through} ({one.status}, {render.duration(one.seconds)})"
        if one.status == 407:
            fix = "give the proxy its user:password with proxy_auth_env"
            return Finding(
                PROBLEM, "network", f"{name}: on the way to {host} the proxy wants credentials{through}", fix
            )
        if one.status >= 500:
            return Finding(NOTE, "network", told, "the provider may have trouble; ccm test asks it for real")
        slow = one.seconds > _SLOW_S
        return Finding(
            WARNING if slow else OK, "network", told, "slow; a nearer region helps" if slow else ""
        )
    means, fix = next(
        ((means, fix) for words, means, fix in _WORDS if any(word in one.error for word in words)),
        ("it can't be reached", "check the network and base_url"),
    )
    if not proxy and from_environment(one.provider.base_url, env).url:
        fix += f'; this machine names a proxy: try proxy = "env" in [providers.{name}]'
    return Finding(PROBLEM, "network", f"{name}: {host}{through}: {means} [{one.error[:160]}]", fix)
