"""Where the clouds' own tools keep credentials: which of their places exist here. Nothing secret is read, nothing is
asked over the network; `upstream.aws` and `upstream.gcp` do that, at the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ccm.model import KeySource
from ccm.shape import replace

_DMI = Path("/sys/class/dmi/id")


def aws_files(env: Mapping[str, str], home: Path) -> tuple[Path, Path]:
    """AWS's shared credentials file and its config file, whether they exist or not."""
    credentials = env.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / ".aws" / "credentials")
    config = env.get("AWS_CONFIG_FILE") or str(home / ".aws" / "config")
    return _path(credentials, home), _path(config, home)


def google_file(env: Mapping[str, str], home: Path) -> Path:
    """Google's application default credentials, whether the file exists or not."""
    named = env.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return _path(named, home)
    directory = env.get("CLOUDSDK_CONFIG") or str(home / ".config" / "gcloud")
    return _path(directory, home) / "application_default_credentials.json"


def aws_source(env: Mapping[str, str], home: Path, profile: str = "", dmi: Path = _DMI) -> str:
    """Where AWS credentials will probably come from, in words; "" where nothing can be seen. A `profile` named in the
    configuration comes before the environment."""
    wanted = profile or env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE") or ""
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY") and not profile:
        return "environment variable AWS_ACCESS_KEY_ID"
    if env.get("AWS_WEB_IDENTITY_TOKEN_FILE") and env.get("AWS_ROLE_ARN") and not profile:
        return "web identity token"
    for path in aws_files(env, home):
        if path.is_file():
            return f"profile {wanted or 'default'} in {path}"
    if profile:
        return ""
    if env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return "container credentials"
    if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return ""
    if env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "amazon" in _line(dmi / "sys_vendor").lower():
        return "instance metadata"
    return ""


def google_source(env: Mapping[str, str], home: Path, dmi: Path = _DMI) -> str:
    """Where Google credentials will probably come from, in words; "" where nothing can be seen."""
    path = google_file(env, home)
    if env.get("GOOGLE_APPLICATION_CREDENTIALS") or path.is_file():
        return f"application default credentials in {path}"
    if env.get("NO_GCE_CHECK", "").lower() == "true":
        return ""
    if env.get("GCE_METADATA_HOST") or _line(dmi / "product_name").startswith("Google"):
        return "metadata server"
    return ""


def cloud_key(
    auth: str, found: KeySource | None, profile: str, env: Mapping[str, str], home: Path
) -> KeySource | None:
    """The key source of a provider whose own variables gave `found`, for the schemes that look for more: "sigv4",
    "google", and "passthrough", which needs nothing here. None where `found` stands."""
    if auth == "passthrough":
        return KeySource("none", "the client's own key")
    if auth not in ("sigv4", "google") or (found is not None and found.secret and not profile):
        return None
    place = aws_source(env, home, profile) if auth == "sigv4" else google_source(env, home)
    if place:
        return KeySource("none", place)
    if auth == "sigv4":
        names = f"{found.name} nor " if found is not None else ""
        problem = f"neither {names}AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY is set, and no profile, container or instance role is in sight"
        return KeySource("env", "AWS_ACCESS_KEY_ID", None, problem)
    if found is None:
        return KeySource(
            "env", "GOOGLE_APPLICATION_CREDENTIALS", None, "there are no application default credentials"
        )
    return replace(found, problem=f"there are no application default credentials, and {found.problem}")


def _path(text: str, home: Path) -> Path:
    return home / text[2:] if text == "~" or text.startswith("~/") else Path(text)


def _line(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
