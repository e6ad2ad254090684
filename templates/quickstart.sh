#!/bin/sh
# ccm-quickstart: the quick setup, installed as ~/bin/ccm-quickstart.
#
# Asks a few questions (none with --yes), writes ~/config/ccm-config.toml and says how Claude Code finds ccm.
# `ccm-quickstart --help` shows everything. CCM_BIN names the ccm to use.
set -u
umask 077

file=$0
while [ -h "$file" ]; do
    link=$(readlink "$file") || break
    case $link in /*) file=$link ;; *) file=$(dirname -- "$file")/$link ;; esac
done
dir=$(CDPATH='' cd -- "$(dirname -- "$file")" && pwd)

for ccm in "${CCM_BIN:-}" "$dir/ccm" "$dir/../.venv/bin/ccm" "${HOME:-}/.claude-code-mux/venv/bin/ccm"; do
    [ -n "$ccm" ] && [ -f "$ccm" ] && [ -x "$ccm" ] && exec "$ccm" quickstart "$@"
done
ccm=$(command -v ccm) || {
    echo "ccm-quickstart: there is no ccm: install it, or set CCM_BIN" >&2
    exit 1
}
exec "$ccm" quickstart "$@"
