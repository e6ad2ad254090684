"""AWS's Security Token Service, as far as assuming a role goes. The secrets travel in the body and in the signature,
never in the URL.

Source: AWS STS API reference (version 2011-06-15), AssumeRole and AssumeRoleWithWebIdentity; form in, XML out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit
from xml.sax.saxutils import unescape

from ccm.config.secrets import KeyUnavailable
from ccm.shape import dataclass, field
from ccm.upstream.sigv4 import sign
from ccm.upstream.tokens import KeyDelayed, fetch

if TYPE_CHECKING:
    import requests

_TIMEOUT_S = 5.0
_VERSION = "2011-06-15"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_CODE = re.compile(r"<Code>([A-Za-z.]{1,80})</Code>")


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose credentials sign the call."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def ask(
    session: requests.Session,
    env: Mapping[str, str],
    region: str,
    action: str,
    call: Mapping[str, str],
    signer: Signer | None = None,
) -> dict[str, str]:
    """The credentials of a role: AccessKeyId, SecretAccessKey, Token, Expiration. Without a `signer` the call carries
    its own proof (a web identity token). Raises KeyUnavailable with the error's code, KeyDelayed when STS is away."""
    region = region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    end = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = (env.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.{end}").rstrip("/") + "/"
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise KeyUnavailable("AWS_ENDPOINT_URL_STS must be an https URL")
    body = urlencode({"Action": action, "Version": _VERSION, **call}).encode()
    headers = {"content-type": _FORM}
    if signer is not None:
        headers |= sign(
            "POST",
            url,
            headers,
            body,
            access_key=signer.access_key,
            secret_key=signer.secret_key,
            session_token=signer.session_token,
            region=region,
            service="sts",
            now=datetime.now(timezone.utc),
        )
    status, _, answer = fetch(
        session, "POST", url, "AWS STS", headers=headers, data=body, timeout_s=_TIMEOUT_S
    )
    text = answer.decode("utf-8", "replace")
    if status != 200:
        code = _CODE.search(text)
        told = f"AWS STS refused {action}: {code[1] if code else status}"
        raise KeyDelayed(told) if status >= 500 or status == 429 else KeyUnavailable(told)
    found = {}
    for member in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"):
        match = re.search(rf"<{member}>([^<]*)</{member}>", text)
        found["Token" if member == "SessionToken" else member] = unescape(match[1]).strip() if match else ""
    return found
