"""How a provider is told who pays: one table of schemes. The only place that reveals a key.

The key goes into a header of a request to its own provider's host, never into a URL, a log or an error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ccm.config.secrets import KeyCommands, KeyUnavailable, key_fault
from ccm.errors import UpstreamError
from ccm.late import Late, regex
from ccm.model import EMPTY, Endpoint, FailureKind, KeySource, Provider, ProviderError, Secret
from ccm.upstream.sessions import proxy_headers
from ccm.upstream.tokens import KeyDelayed, Renewed

if TYPE_CHECKING:
    import requests

    from ccm.upstream import aws, gcp, session, sigv4
else:  # the clouds' ways are imported for the first request that goes there
    aws, gcp = Late("ccm.upstream.aws"), Late("ccm.upstream.gcp")
    session, sigv4 = Late("ccm.upstream.session"), Late("ccm.upstream.sigv4")

_JWT = regex(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")
# Bedrock's hosts tell service and region: bedrock-runtime.eu-west-1.amazonaws.com, bedrock-mantle.us-east-1.api.aws.
_BEDROCK = regex(r"(?:^|[/.])(bedrock(?:-[a-z]+)*)\.([a-z]{2}(?:-[a-z]+)+-\d+)\.")
# Keys of which it is known whose they are: the client's own go to no other type of provider.
_OWNERS: Mapping[str, frozenset[str]] = {
    "sk-ant-": frozenset({"anthropic"}),
    "sk-or-": frozenset({"openrouter"}),
    "sk-proj-": frozenset({"openai"}),
    "AIza": frozenset({"google"}),
    "gsk_": frozenset({"groq"}),
    "xai-": frozenset({"xai"}),
    "hf_": frozenset({"huggingface"}),
}
_GENERAL = frozenset({"custom", "litellm"})  # types whose address is the user's own
_MAX_PASSED = 256  # clients' keys that the redactor is told of; nobody may fill the memory with invented ones
# Logins of consumer subscriptions are no keys for third programs.
_SUBSCRIPTION = ("sk-ant-oat", "sk-ant-ort", "sk-ant-sid")


def bearer(key: str) -> dict[str, str]:
    """RFC 6750."""
    return {"authorization": f"Bearer {key}"}


def _azure(key: str, dialect: str) -> dict[str, str]:
    """An Entra token is a JWT and goes as bearer; a key as api-key, and as x-api-key where Anthropic's API is served."""
    if _JWT.fullmatch(key):
        return bearer(key)
    return {"api-key": key, "x-api-key": key} if dialect == "anthropic" else {"api-key": key}


# scheme -> headers of (key, dialect). What is not here has a method of its own.
_SCHEMES: Mapping[str, Callable[[str, str], dict[str, str]]] = {
    "bearer": lambda key, _: bearer(key),
    "x-api-key": lambda key, _: {"x-api-key": key},
    "api-key": lambda key, _: {"api-key": key},
    "x-goog-api-key": lambda key, _: {"x-goog-api-key": key},
    "none": lambda _key, _: {},
    "google": lambda key, _: bearer(key),
    "sigv4": lambda key, _: bearer(key),  # a Bedrock API key
    "azure": _azure,
}


class Authorizer:
    """Gives each request its credentials. `env` is the environment as it was at start; `own_token` must never leave.

    `on_secret` gets every key that is not in the configuration's snapshot (commands, clouds, clients), before it is
    used for the first time: the redactor must know it.
    """

    def __init__(
        self, env: Mapping[str, str], own_token: str, on_secret: Callable[[str], None] = lambda _secret: None
    ) -> None:
        self._env = env
        self.own_token = own_token  # a reload may change it
        self._on_secret = on_secret
        self._commands = KeyCommands()
        self._passed_keys: set[str] = set()
        self._lock = threading.Lock()
        self._aws: dict[tuple[object, ...], Renewed[aws.AwsKeys]] = {}
        self._google: dict[tuple[object, ...], Renewed[gcp.GoogleToken]] = {}

    def headers(
        self,
        endpoint: Endpoint,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        client: Mapping[str, str] = EMPTY,
    ) -> dict[str, str]:
        """The headers that authenticate this very request, names in any case; for a plain-HTTP proxy too.

        `client` are the client's own headers (lower-case names), looked at for auth "passthrough" only. May block
        while a command runs or a token is fetched. Raises UpstreamError: CREDENTIAL when there is no key, CONNECT when
        the service that gives it out is away.
        """
        provider = endpoint.provider
        try:
            found = self._headers(endpoint, url, headers, body, client)
        except KeyDelayed as error:
            raise _failure(provider, str(error), FailureKind.CONNECT) from None
        except KeyUnavailable as error:
            raise _failure(provider, str(error), FailureKind.CREDENTIAL) from None
        proxy_auth = provider.options.get("proxy_auth")
        if isinstance(proxy_auth, Secret) and url.startswith("http://"):
            found |= proxy_headers(proxy_auth)
        return found

    def lasts(self, endpoint: Endpoint) -> bool:
        """Whether every request to this endpoint is authenticated by the same headers as long as the configuration
        stays: a key that was read with it. Not what a command, a cloud or the client itself gives, nor a signature."""
        key, scheme = endpoint.key, endpoint.provider.auth
        fixed = key is not None and key.kind not in ("none", "command") and key.secret is not None
        return scheme != "passthrough" and (fixed or scheme == "none")

    def refused(self, endpoint: Endpoint) -> bool:
        """The provider refused these credentials. True when the next request will get new ones: what a command
        printed, what a cloud gave out. False for keys that only a reload can change."""
        provider = endpoint.provider
        if endpoint.key is not None and endpoint.key.kind == "command":
            self._commands.of(endpoint.key, self._env, self.own_token).forget()
            return True
        if endpoint.key is None and provider.auth == "sigv4":
            self._aws_of(provider, "").forget()
            return True
        if endpoint.key is None and provider.auth == "google":
            self._google_of(provider).forget()
            return True
        return False

    def _headers(
        self,
        endpoint: Endpoint,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        client: Mapping[str, str],
    ) -> dict[str, str]:
        provider, scheme = endpoint.provider, endpoint.provider.auth
        if scheme == "passthrough":
            return self._passed(provider, client)
        key = self._key(endpoint.key)
        if key:
            return _SCHEMES[scheme](key, provider.dialect)
        if scheme == "sigv4":
            return self._signed(provider, url, headers, body)
        if scheme == "google":
            token = self._google_of(provider).get()
            project = {"x-goog-user-project": token.quota_project} if token.quota_project else {}
            return {**bearer(token.token), **project}
        return {}

    def _key(self, source: KeySource | None) -> str:
        if source is None or source.kind == "none":
            return ""
        if source.kind == "command":
            key = self._commands.of(source, self._env, self.own_token).get().reveal()
            self._on_secret(key)
            return key
        if source.secret is None:
            raise KeyUnavailable(f"no key from {source.kind} {source.name}: {source.problem}")
        return source.secret.reveal()

    # ---- the client's own key

    def _passed(self, provider: Provider, client: Mapping[str, str]) -> dict[str, str]:
        scheme, _, token = client.get("authorization", "").partition(" ")
        offered = {"x-api-key": client.get("x-api-key", "").strip()}
        if scheme.lower() == "bearer":
            offered["authorization"] = token.strip()
        faults = {name: key_fault(key, self.own_token) for name, key in offered.items()}
        name = next((name for name, fault in faults.items() if not fault), "")
        if not name:
            raise KeyUnavailable("the client sent no key of its own, and none is configured (passthrough)")
        key = offered[name]
        if key.startswith(_SUBSCRIPTION):
            raise KeyUnavailable("a subscription's login is not passed on: use an API key")
        owners = next((types for start, types in _OWNERS.items() if key.startswith(start)), None)
        if owners is not None and provider.type not in owners | _GENERAL:
            raise KeyUnavailable(f"the client's own key is one for {', '.join(sorted(owners))}")
        if key not in self._passed_keys and len(self._passed_keys) < _MAX_PASSED:
            self._passed_keys.add(key)
            self._on_secret(key)
        if provider.dialect == "gemini":
            return {"x-goog-api-key": key}
        return {"x-api-key": key} if provider.dialect == "anthropic" and name == "x-api-key" else bearer(key)

    # ---- clouds

    def _signed(
        self, provider: Provider, url: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        match = _BEDROCK.search(url.partition("?")[0].split("/", 3)[2])
        region = match[2] if match else self._region(provider)
        keys = self._aws_of(provider, region).get()
        return sigv4.sign(
            "POST",
            url,
            headers,
            body,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.session_token,
            region=region,
            # Mantle is a service of its own: IAM judges its requests under that name.
            service="bedrock-mantle" if match and match[1] == "bedrock-mantle" else "bedrock",
            now=datetime.now(timezone.utc),
        )

    def _region(self, provider: Provider) -> str:
        env = self._env
        return str(
            provider.options.get("region")
            or env.get("AWS_REGION")
            or env.get("AWS_DEFAULT_REGION")
            or "us-east-1"
        )

    def _aws_of(self, provider: Provider, region: str) -> Renewed[aws.AwsKeys]:
        """The credentials of a profile, shared by all providers that reach AWS the same way."""
        profile = str(provider.options.get("profile") or "")

        def fetch() -> tuple[aws.AwsKeys, float]:
            local, remote = session.make_session(secure=False), _remote(provider)
            with local, remote:
                keys = aws.find(aws.Place(self._env, self._home, local, remote, profile, region))
            for secret in (keys.secret_key, keys.session_token):
                self._on_secret(secret)
            return keys, keys.end

        key = (profile, *_way(provider))
        with self._lock:
            found = self._aws.get(key)
            if found is None:
                found = self._aws[key] = Renewed(fetch)
            return found

    def _google_of(self, provider: Provider) -> Renewed[gcp.GoogleToken]:
        def fetch() -> tuple[gcp.GoogleToken, float]:
            local, remote = session.make_session(secure=False), _remote(provider)
            with local, remote:
                token = gcp.find(gcp.Place(self._env, self._home, local, remote))
            self._on_secret(token.token)
            return token, token.end

        key = _way(provider)
        with self._lock:
            found = self._google.get(key)
            if found is None:
                found = self._google[key] = Renewed(fetch)
            return found

    @property
    def _home(self) -> Path:
        return Path(self._env.get("HOME") or os.path.expanduser("~"))


def _way(provider: Provider) -> tuple[object, ...]:
    return tuple(provider.options.get(name) or "" for name in ("proxy", "proxy_auth", "ca_bundle"))


def _remote(provider: Provider) -> requests.Session:
    options = {name: provider.options.get(name) for name in ("proxy", "proxy_auth", "ca_bundle")}
    try:
        return session.make_session(options)
    except (OSError, ValueError) as error:
        raise KeyUnavailable(f"the way to the credentials can't be used: {str(error)[:200]}") from None


def _failure(provider: Provider, what: str, kind: FailureKind) -> UpstreamError:
    type = "authentication_error" if kind is FailureKind.CREDENTIAL else "api_error"
    return UpstreamError(ProviderError(0, type, f"{provider.name}: {what}", kind=kind))
