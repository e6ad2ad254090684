#!/bin/sh
# Puts another version of ccm in the place of the installed one, without losing a stream.
#
#   sh upgrade.sh [--from FILE] [--prefix DIR]     the file beside this script (in a checkout: built first), or FILE
#   sh upgrade.sh --rollback                       the version before, the same way
#
# The new file is checked first (it runs, its contents are those of its manifest). The old one is kept in ~/.claude-code-mux as
# ccm.previous. A running ccm hands its connections over to the new one; if that does not become ready, the old file is put back
# and the old process, which never stopped, goes on. Exit codes: 0 done (or nothing to do), 1 not possible, all is as it was, 2 usage.
# shellcheck disable=SC2015  # `a && b || fail`: fail ends the script

main() {
    set +e -u # Sindri's manager sources its own settings before
    [ -z "${BASH_VERSION:-}" ] || eval 'set +o pipefail'
    umask 022
    began=$(now)
    from=${CCM_FILE:-} base=${PREFIX:-} rollback=''
    while [ $# -gt 0 ]; do
        case $1 in
            --from | --prefix) [ $# -gt 1 ] || usage "$1 wants a value" ;;
        esac
        case $1 in
            --from) from=$2; shift ;;
            --prefix) base=$2; shift ;;
            --rollback) rollback=yes ;;
            --yes | -y) ;; # there is nothing to ask
            -h | --help) sed -n '2,/^# and the old/s/^# \{0,1\}//p' "$0"; exit 0 ;;
            *) usage "unknown: $1" ;;
        esac
        shift
    done
    [ -n "${HOME:-}" ] || fail "HOME is not set"
    state=$HOME/.claude-code-mux
    note=$state/installed
    if [ -z "$base" ]; then
        base=$HOME
        [ -e "$HOME/bin/ccm" ] || [ ! -f "$note" ] || base=$(sed -n 's/^base //p' "$note" | tail -n 1)
    fi
    bin=${base:-$HOME}/bin
    names='ccm ccmctl ccm-quickstart'
    trap 'clean; exit 130' INT
    trap 'clean; exit 143' TERM
    trap 'clean; exit 129' HUP

    [ -f "$bin/ccm" ] || fail "there is no $bin/ccm to upgrade: sh install.sh installs it"
    python=$(find_python) || fail "Python 3.10 or newer is needed; PYTHON=/path/to/python names one"
    old=$(version_of "$bin/ccm") || old=unknown
    if [ -n "$rollback" ]; then
        file=$state/ccm.previous
        [ -f "$file" ] || fail "there is no version before this one ($file)"
    else
        dir=$(here)
        file=$(find_file) || exit 1
    fi
    new=$(version_of "$file") || fail "$file is no ccm that runs here; ccm $old stays"
    whole "$file" || fail "$file is damaged; ccm $old stays"
    if cmp -s "$file" "$bin/ccm"; then
        say "ccm $old is what is installed already."
        exit 0
    fi
    for place in "$bin" "$state"; do
        [ -d "$place" ] || mkdir -m 700 "$place" 2>/dev/null || fail "$place cannot be made"
        [ -w "$place" ] || fail "$place cannot be written"
    done

    # ---- beside their places first: a full disk changes nothing
    stage "$file" ccm
    if [ -n "$rollback" ]; then
        for name in ccmctl ccm-quickstart; do [ ! -f "$state/$name.previous" ] || stage "$state/$name.previous" "$name"; done
    else
        inside "$file" templates/ccmctl.sh >"$state/ccmctl.next" && stage "$state/ccmctl.next" ccmctl || full
        inside "$file" templates/quickstart.sh >"$state/ccm-quickstart.next" && stage "$state/ccm-quickstart.next" ccm-quickstart || full
        rm -f "$state/ccmctl.next" "$state/ccm-quickstart.next"
    fi
    for name in $names; do
        [ ! -f "$bin/$name" ] || { cp -p "$bin/$name" "$state/$name.keep.$$" 2>/dev/null && cmp -s "$bin/$name" "$state/$name.keep.$$"; } || full
    done
    fsync "$bin" "$state" || full
    limit "$python" "$bin/.ccm.next.$$" --pyz-compile >/dev/null 2>&1 || : # so that the new one starts at once

    running=''
    if limit "$bin/ccm" ctl health >/dev/null 2>&1; then running=yes; fi
    trap '' INT TERM HUP # from here it is all or nothing, and short
    for name in $names; do
        [ ! -f "$bin/.$name.next.$$" ] || mv -f "$bin/.$name.next.$$" "$bin/$name" || back "a file could not be put into its place"
    done
    told=$(version_of "$bin/ccm") && [ "$told" = "$new" ] || back "the new file does not run from $bin"
    if [ -n "$running" ]; then hand_over; fi
    for name in $names; do
        [ ! -f "$state/$name.keep.$$" ] || mv -f "$state/$name.keep.$$" "$state/$name.previous"
    done
    clean
    verb=upgraded
    [ -z "$rollback" ] || verb='rolled back'
    say "ccm is $verb from $old to $new, in $(($(now) - began)) s."
    say "The one before is kept: sh upgrade.sh --rollback"
}

# The running ccm starts its successor from the new file and gives it its sockets; it serves until that one does.
hand_over() {
    said=$(limit "$bin/ccmctl" restart --handover 2>&1)
    code=$?
    if [ "$code" -eq 0 ]; then
        serving=$(limit "$bin/ccm" ctl version 2>/dev/null)
        case $serving in
            *"ccm $new is running"*) say "$said" ;;
            *) say "upgrade.sh: a ccm is running that was not started from $bin/ccm and stays what it was ($serving)" >&2 ;;
        esac
        return 0
    fi
    case $said in
        *'no handover: '*) # by its nature, not by the new one's fault
            say "$said" >&2
            say "The new file is in its place; \`ccmctl restart\` starts it when no stream is in the way." >&2
            ;;
        *)
            printf '%s\n' "$said" >&2
            back "ccm $new did not become ready"
            ;;
    esac
}

# Everything as it was; the process that runs has never stopped.
back() {
    for name in $names; do
        [ ! -f "$state/$name.keep.$$" ] || {
            cp -p "$state/$name.keep.$$" "$bin/.$name.next.$$" && mv -f "$bin/.$name.next.$$" "$bin/$name"
        } || say "upgrade.sh: $bin/$name could not be put back; it is $state/$name.keep.$$" >&2
    done
    if [ -n "${running:-}" ]; then
        if limit "$bin/ccm" ctl health >/dev/null 2>&1; then
            fail "$1: the old file is back, and ccm $old runs on"
        fi
        fail "$1: the old file is back, but no ccm answers: ccmctl start"
    fi
    fail "$1: the old file is back (ccm $old)"
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'upgrade.sh: %s\n' "$*" >&2
    clean
    exit 1
}
usage() {
    printf 'upgrade.sh: %s (see: sh upgrade.sh --help)\n' "$1" >&2
    exit 2
}
full() { fail "there is no room in $bin or $state; ccm $old stays"; }
now() { date +%s; }

clean() {
    for name in ${names:-}; do
        rm -f "$bin/.$name.next.$$" "$state/$name.next"
        [ ! -f "$state/$name.keep.$$" ] || ! cmp -s "$state/$name.keep.$$" "$bin/$name" || rm -f "$state/$name.keep.$$"
    done
}

limit() {
    left=$((began + 300 - $(now)))
    [ "$left" -gt 0 ] || fail "not done within 300 s"
    if command -v timeout >/dev/null 2>&1; then timeout "$left" "$@" </dev/null; else "$@" </dev/null; fi
}

here() {
    [ -f "$0" ] && (CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
}

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' </dev/null 2>/dev/null && {
            command -v "$candidate"
            return 0
        }
    done
    return 1
}

find_file() {
    if [ -n "$from" ]; then
        [ -f "$from" ] || fail "there is no $from"
        printf '%s\n' "$from"
        return 0
    fi
    if [ -n "$dir" ] && [ -f "$dir/build-pyz" ] && [ -f "$dir/../setup.cfg" ]; then
        root=$(CDPATH='' cd -- "$dir/.." && pwd)
        limit "$python" "$dir/build-pyz" >&2 || fail "ccm could not be built; ccm $old stays"
        printf '%s\n' "$root/dist/ccm"
        return 0
    fi
    for candidate in "$dir/ccm" "$dir/dist/ccm" "$dir/../dist/ccm"; do
        [ -n "$dir" ] && [ -f "$candidate" ] || continue
        printf '%s\n' "$candidate"
        return 0
    done
    fail "there is no ccm beside this script: run the new release's upgrade.sh in its folder, or name the file with --from"
}

version_of() {
    [ -f "$1" ] || return 1
    told=$(limit "$python" "$1" --version 2>/dev/null) || return 1
    case $told in "ccm "[0-9]*.[0-9]*.[0-9]*) printf '%s\n' "${told#ccm }" ;; *) return 1 ;; esac
}

whole() {
    limit "$python" "$1" --pyz-verify || return 1
    if [ -f "$1.sha256" ] && command -v sha256sum >/dev/null 2>&1; then
        [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$(cut -d' ' -f1 <"$1.sha256")" ] || return 1
    fi
}

inside() { limit "$python" "$1" --pyz-read "$2"; }

# stage FILE NAME: its copy beside $bin/NAME, with the first line that the installed ccm has.
stage() {
    next=$bin/.$2.next.$$
    if [ "$2" = ccm ]; then
        { head -n 1 "$bin/ccm" && tail -n +2 "$1"; } >"$next" 2>/dev/null || full
        [ "$(tail -n +2 "$1" | wc -c)" = "$(tail -n +2 "$next" | wc -c)" ] || full
    else
        cat "$1" >"$next" 2>/dev/null && cmp -s "$1" "$next" || full
    fi
    chmod 755 "$next" || full
}

# On disk before any name leads there.
fsync() {
    "$python" -c '
import glob, os, sys
for place in sys.argv[2:]:
    for name in [*glob.glob(glob.escape(place) + "/.*.next." + sys.argv[1]), *glob.glob(glob.escape(place) + "/*.keep." + sys.argv[1])]:
        fd = os.open(name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)' "$$" "$@" </dev/null
}

main "$@"
