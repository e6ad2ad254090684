#!/bin/sh
# Removes ccm: stops it, then removes what its installer made and nothing else, after one question.
#
#   sh uninstall.sh [--yes] [--prefix DIR] [--keep-config]
#
# Exit codes: 0 removed (or nothing there), 1 not everything could be removed, or the answer was no, 2 usage.
# shellcheck disable=SC2015  # `a && b || c`: c is meant for both

main() {
    set +e -u # Sindri's manager sources its own settings before
    [ -z "${BASH_VERSION:-}" ] || eval 'set +o pipefail'
    yes='' keep='' base=${PREFIX:-}
    while [ $# -gt 0 ]; do
        case $1 in
            --yes | -y) yes=yes ;;
            --keep-config) keep=yes ;;
            --prefix) [ $# -gt 1 ] || usage "--prefix wants a value"; base=$2; shift ;;
            -h | --help) sed -n '2,/^# Exit/s/^# \{0,1\}//p' "$0"; exit 0 ;;
            *) usage "unknown: $1" ;;
        esac
        shift
    done
    [ -n "${HOME:-}" ] || { say "HOME is not set" >&2; exit 1; }
    state=$HOME/.claude-code-mux
    note=$state/installed
    if [ -z "$base" ]; then # where the installer put it
        base=$HOME
        [ -e "$HOME/bin/ccm" ] || [ ! -f "$note" ] || base=$(sed -n 's/^base //p' "$note" | tail -n 1)
    fi
    base=${base:-$HOME}
    bin=$base/bin config=$base/config/ccm-config.toml

    files='' blocks='' dirs=''
    for path in "$bin/ccm" "$bin/ccmctl" "$bin/ccm-quickstart"; do add "$path"; done
    if [ -z "$keep" ]; then
        for path in "$config" "$config".new "$config".bak-*; do add "$path"; done
    fi
    add "$HOME/.config/fish/conf.d/claude-code-mux.fish"
    if [ -f "$note" ]; then
        while read -r kind path; do
            case $kind in
                link) [ ! -h "$path" ] || add "$path" ;;
                dir) dirs="$dirs$path
" ;;
            esac
        done <"$note"
    fi
    for rc in "$HOME/.bashrc" "$HOME/.zshrc"; do
        [ -f "$rc" ] && grep -q '^# >>> claude-code-mux >>>' "$rc" && blocks="$blocks$rc
"
    done
    add "$state"
    if [ -z "$files$blocks" ]; then
        say "Nothing of ccm is here."
        exit 0
    fi

    say "This removes:"
    printf '%s' "$files" | sed 's/^/  /'
    printf '%s' "$blocks" | sed 's/^/  the block of claude-code-mux in /'
    if [ -z "$yes" ]; then
        printf 'Remove it? [y/N] '
        read -r answer || answer=
        case $answer in
            y | Y | yes | Yes) ;;
            *) say "Nothing was removed."; exit 1 ;;
        esac
    fi

    failed=
    stop_service
    while read -r rc; do unblock "$rc" || failed="$failed $rc"; done <<END
$(printf '%s' "$blocks")
END
    while IFS= read -r path; do
        [ -n "$path" ] || continue
        rm -rf -- "$path" 2>/dev/null
        { [ -e "$path" ] || [ -h "$path" ]; } && failed="$failed $path"
    done <<END
$(printf '%s' "$files")
END
    # directories the installer made, if nobody has put anything there since; the deepest first
    printf '%s' "$dirs" | sort -r | while IFS= read -r path; do rmdir -- "$path" 2>/dev/null || :; done
    if [ -n "$failed" ]; then
        say "uninstall.sh: could not be removed:$failed" >&2
        exit 1
    fi
    say "ccm is removed. In this terminal its variables are still set: unset ANTHROPIC_BASE_URL ANTHROPIC_API_KEY"
}

say() { printf '%s\n' "$*"; }
usage() {
    printf 'uninstall.sh: %s (see: sh uninstall.sh --help)\n' "$1" >&2
    exit 2
}

add() {
    if [ -e "$1" ] || [ -h "$1" ]; then
        files="$files$1
"
    fi
}

limit() { if command -v timeout >/dev/null 2>&1; then timeout -k 5 "$@" </dev/null; else shift; "$@" </dev/null; fi; }

# The unit that `ccmctl service install` wrote, then the running ccm, after its requests.
stop_service() {
    [ -x "$bin/ccm" ] || return 0
    unit=$HOME/.config/systemd/user/ccm.service agent=$HOME/Library/LaunchAgents/dev.claude-code-mux.ccm.plist
    if [ -e "$unit" ] || [ -e "$agent" ]; then limit 60 "$bin/ccm" service remove || :; fi
    if limit 10 "$bin/ccm" ctl health >/dev/null 2>&1; then
        say "stopping ccm ..."
        if [ -x "$bin/ccmctl" ]; then limit 90 "$bin/ccmctl" stop; else limit 90 "$bin/ccm" ctl stop; fi || {
            say "it goes on: sending it SIGTERM" >&2
            [ ! -r "$state/ccm.pid" ] || limit 10 "$bin/ccmctl" stop --now || :
        }
    fi
}

# Takes our block out of a file and undoes what its first line says: the file made for it, a last line ended for it.
unblock() {
    rc=$1
    [ -n "$rc" ] || return 0
    [ ! -h "$rc" ] || rc=$(readlink -f "$rc") || return 1
    if [ "$(grep -c '^# >>> claude-code-mux >>>' "$rc")" != 1 ] || [ "$(grep -c '^# <<< claude-code-mux <<<' "$rc")" != 1 ]; then
        say "uninstall.sh: the block in $rc has lost its marks: take it out by hand" >&2
        return 1
    fi
    new=$rc.ccm-uninstall.$$
    ended=yes
    [ -z "$(tail -c 1 "$rc")" ] || ended=no
    cp -p "$rc" "$new" && LC_ALL=C awk -v ended="$ended" '
        /^# >>> claude-code-mux >>>/ { inside = 1; joined = /without an end/; last = n; next }
        inside && /^# <<< claude-code-mux <<</ { inside = 0; next }
        inside { next }
        { line[++n] = $0 }
        END {
            for (i = 1; i <= n; i++) {
                whole = i < n || (i == last ? !joined : ended == "yes")
                printf "%s%s", line[i], (whole ? "\n" : "")
            }
        }' "$rc" >"$new" || { rm -f "$new"; return 1; }
    if [ ! -s "$new" ] && grep -q '^# >>> claude-code-mux >>> made by' "$rc"; then
        rm -f "$new" "$rc"
    else
        mv -f "$new" "$rc"
    fi
}

main "$@"
