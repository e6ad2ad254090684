"""The files that come with ccm and are no Python: templates of the configuration, the control script, the units.

They stand beside the package in a checkout, an editable installation and the one-file ccm, and among the installed data
files (share/claude-code-mux) of a wheel. Never read from the working directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ccm

_PACKAGE = "claude-code-mux"


class Missing(Exception):
    """This installation lacks the file; the text says what to do."""


def template(name: str) -> str:
    """The text of `templates/<name>`. Raises Missing."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__)))
    loader: Any = ccm.__loader__
    try:
        return str(loader.get_data(os.path.join(root, "templates", name)).decode("utf-8"))
    except OSError:
        pass
    try:
        for file in metadata.files(_PACKAGE) or ():
            if file.name == name and _PACKAGE in file.parts:
                return Path(str(file.locate())).read_text("utf-8")
    except (metadata.PackageNotFoundError, OSError):
        pass
    raise Missing(f"{name} is not where this installation should have it: install ccm again")


def program() -> str:
    """The path of the `ccm` that runs: the one file, or the command beside this Python. "" where there is none (a bare
    checkout run as `python -m ccm`)."""
    archive = os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__)))
    if os.path.isfile(archive):
        return os.path.realpath(archive)
    beside = os.path.join(os.path.dirname(sys.executable), "ccm")
    return beside if os.access(beside, os.X_OK) else ""


def run_control_script(words: Sequence[str]) -> None:
    """Becomes templates/ccmctl.sh with this ccm as the one it steers; returns only where there is none it could."""
    ccm_bin = program()
    if ccm_bin:
        env = {**os.environ, "CCM_BIN": ccm_bin, "CCM_AS": "ccm"}  # whatever the one file is called
        os.execvpe("sh", ["sh", "-c", template("ccmctl.sh"), "ccmctl", *words], env)  # noqa: S606  our own script
