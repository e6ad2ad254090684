# Read by the other scripts with `.`: makes .venv from setup.cfg, once for every state of it. POSIX sh.
#
#   root      the checkout        venv      its environment        python    the environment's python
#   make_venv EXTRAS              "" or "[dev]"; does nothing when it is up to date. PYTHON names the python to use.

unset PYTHONDONTWRITEBYTECODE # compiling hundreds of test files anew for every worker is a third of a short run
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv="$root/.venv"
python="$venv/bin/python"

find_python() {
    # shellcheck disable=SC2015
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && {
            command -v "$candidate"
            return 0
        }
    done
    echo "Python 3.10 or newer is needed; PYTHON=/path/to/python names one" >&2
    return 1
}

make_venv() {
    wanted="$(cksum <"$root/setup.cfg") $(cksum <"$root/pyproject.toml") $root"
    for made in "$1" "[dev]"; do # what the tests need is all that running needs, and more
        [ "$(cat "$venv/.ccm-made$made" 2>/dev/null)" = "$wanted" ] && [ -x "$python" ] && return 0
    done
    if [ ! -x "$python" ]; then
        base=$(find_python) || return 1
        echo "making .venv with $base ..." >&2
        "$base" -m venv "$venv" || {
            echo "python's venv module is needed (on Debian: apt-get install python3-venv)" >&2
            return 1
        }
    fi
    echo "installing ccm$1 into .venv ..." >&2
    "$python" -m pip install --quiet --disable-pip-version-check --editable "$root$1" || {
        echo "pip could not install what ccm needs: is there a package index?" >&2
        return 1
    }
    printf '%s\n' "$wanted" >"$venv/.ccm-made$1"
}
