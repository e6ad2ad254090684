"""A provider's options: region, project, resource, files, proxy; and what stands for them in addresses and model names.

The catalogue's row says which variables may give an option and what its values look like. Faults are noted on the
Reading. It opens no file; it looks whether those the configuration names can be read.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ccm.catalog.rows import Row, RowEndpoint
from ccm.config import schema
from ccm.config.read import Reading
from ccm.late import regex

_PLACEHOLDER = regex(r"\{(\w+)\}")
_FILES = ("ca_bundle", "client_cert", "client_key")
_PLACES = ("region", "project", "resource")
_DATED = regex(r"20\d\d-\d\d-\d\d")
# Bedrock's inference profiles are named after the continent of the region.
_GEOGRAPHIES = {"us": "us", "ca": "us", "eu": "eu", "ap": "apac"}


def provider_options(
    reading: Reading,
    at: tuple[str, ...],
    row: Row,
    endpoint: RowEndpoint,
    env: Mapping[str, str],
    base: Path,
    home: Path,
) -> dict[str, Any]:
    """All options by name; "" for those that nobody gives. Notes what is missing, malformed or unheard of."""
    options: dict[str, Any] = dict(row.constants)
    version = options["api_version"] = reading.get(*at, "api_version")
    options["profile"] = reading.get(*at, "profile")
    for key in _FILES:
        name = str(reading.get(*at, key))
        if name:
            path = resolve(name, base, home)
            options[key] = str(path)
            if not (path.is_file() and os.access(path, os.R_OK)):
                reading.problem((*at, key), f"{path} is not a readable file")
    own_address = reading.given(*at, "base_url")
    if is_classic(version) and not own_address and any(e.classic_url for e in row.endpoints):
        options["deployments"] = True
        if not endpoint.classic_url:
            told = f"{version} is a version of the classic API, which has no {endpoint.dialect}"
            reading.problem((*at, "api_version"), told, "leave out dialect or api_version")
    needed = set() if own_address else set(_PLACEHOLDER.findall(endpoint.base_url))
    if "region_host" in needed:
        needed.add("region")
    for option in _PLACES:
        given = str(reading.get(*at, option))
        value = given or _option_from(row, option, env)
        options[option] = value
        if given:
            _check(reading, (*at, option), row, option, given)
        elif not value and option in needed and option not in reading.names(*at):
            variables = [v for v in row.options.get(option, ()) if not v.startswith("=")]
            reading.problem(
                at, f"{row.display} needs {option}", f'add {option} = "..." or set {" or ".join(variables)}'
            )
        elif value and option in needed:
            _check(reading, at, row, option, value)
    return options


def is_classic(version: object) -> bool:
    """Whether an api_version is one of Azure's dated ones, which need addresses of their own ("preview" does not)."""
    return isinstance(version, str) and _DATED.match(version) is not None


def resolve(name: str, base: Path, home: Path) -> Path:
    """A path of the configuration: `~` is the user's home, a relative one starts at the configuration's directory."""
    return home / name[2:] if name == "~" or name.startswith("~/") else base / name


def fill(template: str, options: Mapping[str, Any]) -> str:
    """A catalogue's address or model name with its placeholders replaced."""
    if "{" not in template:
        return template
    region = str(options.get("region") or "")
    values = {
        **{key: str(options.get(key) or "") for key in _PLACES},
        "region_host": _vertex_host(region),
        "geo": _GEOGRAPHIES.get(region.partition("-")[0], "us")
        if not region.startswith("us-gov")
        else "us-gov",
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _check(reading: Reading, where: tuple[str, ...], row: Row, option: str, value: str) -> None:
    known = row.known.get(option, ())
    near = next(iter(difflib.get_close_matches(value, known, 1, 0.75)), "")
    fix = f"did you mean {near}?" if near else f'for example "{known[0]}"' if known else ""
    form = row.forms.get(option)
    if form and not re.fullmatch(form, value):
        reading.problem(where, f"{value!r} is no {option} of {row.display}", fix)
    elif known and value not in known:
        reading.warn(where, f"{value!r} is a {option} that ccm does not know", fix)


def _option_from(row: Row, option: str, env: Mapping[str, str]) -> str:
    for source in row.options.get(option, ()):
        if source.startswith("="):
            return source[1:]
        value = env.get(source, "").strip()
        if "://" in value:  # AZURE_OPENAI_ENDPOINT holds the whole URL
            value = (urlsplit(value).hostname or "").partition(".")[0]
        key = schema.find_key(("providers", "x", option))
        if value and key is not None and key.check is not None and key.check(value) is None:
            return value
    return ""


def _vertex_host(region: str) -> str:
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in ("us", "eu"):  # multi-regions
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"
