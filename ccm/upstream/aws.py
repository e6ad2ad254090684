"""AWS credentials, looked for where AWS's own tools look and in their order: environment, web identity token, profile
of the shared files (keys, assumed role, `credential_process`), container endpoint, instance metadata (IMDSv2).

Nothing here is cached: `tokens.Renewed` does that. Link-local addresses are asked here and nowhere else, and are given
no secret but the tokens they gave out themselves. No text of an error shows what a file or an answer holds.
"""

from __future__ import annotations

import configparser
import ipaddress
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ccm.config.clouds import aws_files
from ccm.config.secrets import KeyUnavailable, key_fault
from ccm.shape import dataclass, field
from ccm.upstream import sts
from ccm.upstream.tokens import FOREVER, KeyDelayed, fetch, parse_object, run_command

if TYPE_CHECKING:
    import requests

REREAD_S = 120.0  # keys in files have no end, but other tools replace them
_PROCESS_TIMEOUT_S = 15.0
_CONTAINER = "http://169.254.170.2"
_CONTAINER_HOSTS = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")
)
_INSTANCE = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"
_TOKEN_LIFE_S = "21600"  # noqa: S105 - six hours, the longest
_DEPTH = 5  # of profiles that lean on each other


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """What signs requests. `end` is epoch seconds; `source` says in words where it came from."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    end: float = FOREVER
    source: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: the environment as it was at the start, the home directory, and two sessions: `local` for
    metadata services, `remote` for STS, which goes through the provider's proxy."""

    env: Mapping[str, str]
    home: Path
    local: requests.Session
    remote: requests.Session
    profile: str = ""  # named in the configuration: then nothing else counts
    region: str = ""

    @property
    def chosen(self) -> str:
        """The profile somebody asked for, "" for the default one."""
        return self.profile or self.env.get("AWS_PROFILE") or self.env.get("AWS_DEFAULT_PROFILE") or ""


def find(place: Place) -> AwsKeys:
    """The first credentials of the chain. Blocks for network and processes. Raises KeyUnavailable, saying where was
    looked or what is wrong with the first thing found; KeyDelayed where a service is only away."""
    for step in (_from_profile,) if place.profile else _CHAIN:
        keys = step(place)
        if keys is not None:
            return keys
    raise KeyUnavailable(
        "no AWS credentials in the environment, in a profile, or from container or instance metadata: set "
        "AWS_BEARER_TOKEN_BEDROCK, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"
    )


def _from_environment(place: Place) -> AwsKeys | None:
    env = place.env
    access, secret = env.get("AWS_ACCESS_KEY_ID", "").strip(), env.get("AWS_SECRET_ACCESS_KEY", "").strip()
    if not access and not secret:
        return None
    if not access or not secret:
        missing = "AWS_SECRET_ACCESS_KEY" if access else "AWS_ACCESS_KEY_ID"
        raise KeyUnavailable(f"half of the AWS credentials is in the environment: {missing} is not set")
    token = env.get("AWS_SESSION_TOKEN") or env.get("AWS_SECURITY_TOKEN") or ""
    return _checked(access, secret, token.strip(), FOREVER, "environment variable AWS_ACCESS_KEY_ID")


def _from_web_identity(place: Place) -> AwsKeys | None:
    env = place.env
    file, role = env.get("AWS_WEB_IDENTITY_TOKEN_FILE", ""), env.get("AWS_ROLE_ARN", "")
    if not file or not role:
        return None
    return _web_identity(place, file, role, env.get("AWS_ROLE_SESSION_NAME", ""))


def _web_identity(place: Place, file: str, role: str, name: str) -> AwsKeys:
    token = _secret_line(Path(file), "the web identity token file")
    call = {"RoleArn": role, "RoleSessionName": name or _session_name(), "WebIdentityToken": token}
    return _of(
        sts.ask(place.remote, place.env, place.region, "AssumeRoleWithWebIdentity", call), "web identity"
    )


# ---- the shared files


def _from_profile(place: Place) -> AwsKeys | None:
    credentials, config = (_sections(path) for path in aws_files(place.env, place.home))
    profiles: dict[str, dict[str, str]] = {}
    for title, values in config.items():
        words = _words(title)
        if len(words) == 2 and words[0] == "profile":
            profiles[words[1]] = {**profiles.get(words[1], {}), **values}
        elif words == ["default"]:
            profiles["default"] = {**values, **profiles.get("default", {})}
    for title, values in credentials.items():
        profiles[title] = {**profiles.get(title, {}), **values}
    name = place.chosen or "default"
    if name not in profiles and not place.chosen:
        return None
    return _profile(place, profiles, name, ())


def _profile(
    place: Place, profiles: Mapping[str, Mapping[str, str]], name: str, seen: tuple[str, ...]
) -> AwsKeys | None:
    values = profiles.get(name)
    if values is None:
        files = " or ".join(str(path) for path in aws_files(place.env, place.home))
        raise KeyUnavailable(f"AWS profile {name!r} is not in {files}")
    source = f"AWS profile {name}"
    role = values.get("role_arn", "")
    # A profile that names itself as its source means its own keys, as with AWS's tools.
    if role and (not seen or seen[-1] != name):
        if len(seen) >= _DEPTH or name in seen:
            raise KeyUnavailable(f"{source}: its source profiles lead in a circle")
        return _assumed(place, profiles, name, values, (*seen, name))
    access, secret = values.get("aws_access_key_id", ""), values.get("aws_secret_access_key", "")
    if access and secret:
        end = time.time() + REREAD_S
        return _checked(access, secret, values.get("aws_session_token", ""), end, source)
    if access or secret:
        raise KeyUnavailable(f"{source} holds half of its credentials")
    if command := values.get("credential_process", ""):
        return _process(place, command, source)
    if any(key.startswith("sso_") for key in values) or "login_session" in values:
        raise KeyUnavailable(
            f"{source} is a browser login: add `credential_process = aws configure export-credentials "
            f"--profile {name} --format process` to a profile and name that one"
        )
    if place.chosen:
        raise KeyUnavailable(f"{source} holds no credentials")
    return None


def _assumed(
    place: Place,
    profiles: Mapping[str, Mapping[str, str]],
    name: str,
    values: Mapping[str, str],
    seen: tuple[str, ...],
) -> AwsKeys:
    source = f"AWS profile {name}"
    if file := values.get("web_identity_token_file", ""):
        return _web_identity(place, file, values["role_arn"], values.get("role_session_name", ""))
    if values.get("mfa_serial"):
        raise KeyUnavailable(f"{source} asks for a one-time code, which nobody could type here")
    base: AwsKeys | None = None
    if below := values.get("source_profile", ""):
        base = _profile(place, profiles, below, seen)
    elif step := _SOURCES.get(values.get("credential_source", "")):
        base = step(place)
    if base is None:
        raise KeyUnavailable(f"{source} assumes a role, but with no credentials that could be found")
    call = {
        "RoleArn": values["role_arn"],
        "RoleSessionName": values.get("role_session_name") or _session_name(),
    }
    if values.get("external_id"):
        call["ExternalId"] = values["external_id"]
    if values.get("duration_seconds"):
        call["DurationSeconds"] = values["duration_seconds"]
    region = place.region or values.get("region", "")
    signer = sts.Signer(base.access_key, base.secret_key, base.session_token)
    return _of(sts.ask(place.remote, place.env, region, "AssumeRole", call, signer), source)


def _process(place: Place, command: str, source: str) -> AwsKeys:
    what = f"credential_process of {source}"
    words = _words(command)
    if not words:
        raise KeyUnavailable(f"{what} is not a command")
    found = parse_object(run_command(words, place.env, what, _PROCESS_TIMEOUT_S), f"what the {what} printed")
    if found.get("Version") != 1:
        raise KeyUnavailable(f"what the {what} printed is not of version 1")
    return _of(found, source, token_member="SessionToken")  # noqa: S106 - a name


# ---- metadata services


def _from_container(place: Place) -> AwsKeys | None:
    env, what = place.env, "the container's credentials endpoint"
    if relative := env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ""):
        url = _CONTAINER + relative
    elif full := env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", ""):
        url = full
        if not _may_be_asked(url):
            raise KeyUnavailable("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or a local address")
    else:
        return None
    token = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "").strip()
    if file := env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""):
        token = _secret_line(Path(file), "the container's authorization token file")
    if any(c < " " or c > "~" for c in token):
        raise KeyUnavailable("the container's authorization token is not one line of text")
    headers = {"accept": "application/json", **({"authorization": token} if token else {})}
    status, _, body = fetch(place.local, "GET", url, what, headers=headers)
    if status != 200:
        raise _refused(what, status)
    return _of(parse_object(body, f"the answer of {what}"), "container credentials")


def _may_be_asked(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"
    return parts.scheme == "http" and (address.is_loopback or address in _CONTAINER_HOSTS)


def _from_instance(place: Place) -> AwsKeys | None:
    env, what = place.env, "the instance metadata service"
    if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    mode = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv4").lower()
    base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _INSTANCE.get(mode, _INSTANCE["ipv4"])
    base = base.rstrip("/")
    life = {"x-aws-ec2-metadata-token-ttl-seconds": _TOKEN_LIFE_S}
    try:
        status, _, token = fetch(place.local, "PUT", f"{base}/latest/api/token", what, headers=life)
    except KeyDelayed:
        return None  # not on EC2
    if status != 200:
        return None  # somebody else's metadata service
    text = token.decode("ascii", "replace").strip()
    if key_fault(text):
        raise KeyUnavailable(f"{what} gave out a token that is none")
    headers = {"x-aws-ec2-metadata-token": text}
    status, _, body = fetch(place.local, "GET", base + _ROLE_PATH, what, headers=headers)
    if status == 404:
        return None  # an instance without a role
    if status != 200:
        raise _refused(what, status)
    role = body.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    status, _, body = fetch(
        place.local, "GET", base + _ROLE_PATH + quote(role, safe="+=,.@-_"), what, headers=headers
    )
    if status != 200:
        raise _refused(what, status)
    found = parse_object(body, f"the answer of {what}")
    if found.get("Code", "Success") != "Success":
        raise KeyDelayed(f"{what} has no credentials for its role now")
    return _of(found, "instance metadata")


Step = Callable[[Place], "AwsKeys | None"]
_CHAIN: tuple[Step, ...] = (
    _from_environment,
    _from_web_identity,
    _from_profile,
    _from_container,
    _from_instance,
)
_SOURCES: Mapping[str, Step] = {
    "Environment": _from_environment,
    "EcsContainer": _from_container,
    "Ec2InstanceMetadata": _from_instance,
}


# ---- pieces


def _of(found: Mapping[str, Any], source: str, token_member: str = "Token") -> AwsKeys:  # noqa: S107 - a name
    """Keys from the JSON that all these services write alike; `Expiration` is RFC 3339."""
    texts = [found.get(name) or "" for name in ("AccessKeyId", "SecretAccessKey", token_member, "Expiration")]
    if not all(isinstance(text, str) for text in texts):
        raise KeyUnavailable(f"{source}: the answer holds no credentials")
    access, secret, session, expiration = texts
    end = FOREVER
    if expiration:
        try:
            stamp = datetime.fromisoformat(expiration.replace("Z", "+00:00"))
        except ValueError:
            raise KeyUnavailable(f"{source}: the answer holds no readable expiration") from None
        end = (stamp if stamp.tzinfo else stamp.replace(tzinfo=timezone.utc)).timestamp()
    return _checked(access, secret, session, end, source)


def _checked(access: str, secret: str, token: str, end: float, source: str) -> AwsKeys:
    for name, value in (("access key", access), ("secret key", secret), ("session token", token or "-")):
        fault = key_fault(value)
        if fault:
            raise KeyUnavailable(f"{source}: the {name} {fault}")
    return AwsKeys(access, secret, token, end, source)


def _refused(what: str, status: int) -> KeyUnavailable:
    text = f"{what} answered {status}"
    return KeyDelayed(text) if status >= 500 or status == 429 else KeyUnavailable(text)


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """The sections of a shared file, {} where there is none; nothing is interpolated."""
    parser = configparser.RawConfigParser(default_section="\0", strict=False)
    try:
        parser.read_string(path.read_text("utf-8-sig"), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise KeyUnavailable(f"{path} can't be read: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError):  # whose texts quote the file
        raise KeyUnavailable(f"{path} is not a file of AWS profiles") from None
    return {title: dict(parser.items(title)) for title in parser.sections()}


def _secret_line(path: Path, what: str) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise KeyUnavailable(f"{what} {path} can't be read") from None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _session_name() -> str:
    return f"ccm-{int(time.time())}"
