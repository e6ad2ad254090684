"""How a provider is told who pays: one table of schemes. The only place that reveals a key.

The key goes into a header of a request to its own provider's host, never into a URL, a log or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from ccm.config.secrets import KeyCommands, KeyUnavailable
from ccm.errors import UpstreamError
from ccm.model import Endpoint, FailureKind, KeySource, Provider, ProviderError
from ccm.upstream.sigv4 import sign as sigv4

_SIMPLE: Mapping[str, Callable[[str], dict[str, str]]] = {
    "bearer": lambda key: {"authorization": f"Bearer {key}"},
    "x-api-key": lambda key: {"x-api-key": key},
    "api-key": lambda key: {"api-key": key},
    "x-goog-api-key": lambda key: {"x-goog-api-key": key},
    "none": lambda key: {},
    "google": lambda key: {"authorization": f"Bearer {key}"},
    "azure": lambda key: {"api-key": key},
}


class Authorizer:
    """Gives each request its credentials. `env` is the environment as it was at start; `own_token` must never leave."""

    def __init__(self, env: Mapping[str, str], own_token: str) -> None:
        self._env = env
        self._own_token = own_token
        self._commands = KeyCommands()

    def headers(
        self, endpoint: Endpoint, url: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        """The headers that authenticate this very request. Raises UpstreamError (CREDENTIAL) when there is no key."""
        provider = endpoint.provider
        key = self._key(endpoint.key, provider)
        scheme = _SIMPLE.get(provider.auth)
        if scheme is not None:
            return scheme(key) if key or provider.auth == "none" else {}
        if provider.auth == "sigv4":
            return (
                {"authorization": f"Bearer {key}"} if key else _sigv4(self._env, provider, url, headers, body)
            )
        return {}

    def _key(self, source: KeySource | None, provider: Provider) -> str:
        if source is None or source.kind == "none":
            return ""
        secret = source.secret
        if source.kind == "command":
            try:
                secret = self._commands.of(source, self._env, self._own_token).get()
            except KeyUnavailable as error:
                raise _no_key(provider, str(error)) from None
        if secret is None:
            raise _no_key(provider, f"no key from {source.kind} {source.name}: {source.problem}")
        return secret.reveal()

    def refused(self, endpoint: Endpoint) -> None:
        """The provider refused this key: a command is asked again next time."""
        if endpoint.key is not None and endpoint.key.kind == "command":
            self._commands.of(endpoint.key, self._env, self._own_token).forget()


def _sigv4(
    env: Mapping[str, str], provider: Provider, url: str, headers: Mapping[str, str], body: bytes
) -> dict[str, str]:
    access, secret = env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", "")
    if not access or not secret:
        raise _no_key(
            provider, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_BEARER_TOKEN_BEDROCK"
        )
    region = str(provider.options.get("region") or env.get("AWS_REGION") or "us-east-1")
    return sigv4(
        "POST",
        url,
        headers,
        body,
        access_key=access,
        secret_key=secret,
        session_token=env.get("AWS_SESSION_TOKEN", ""),
        region=region,
        service="bedrock",
        now=datetime.now(timezone.utc),
    )


def _no_key(provider: Provider, what: str) -> UpstreamError:
    return UpstreamError(
        ProviderError(0, "authentication_error", f"{provider.name}: {what}", kind=FailureKind.CREDENTIAL)
    )
