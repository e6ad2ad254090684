#!/bin/sh
# Installs ccm for this user: from a release folder, from Sindri's extension folder, or from a checkout (built first).
#
#   sh install.sh [--from FILE] [--prefix DIR] [--no-shell] [--quiet]
#
#   ~/bin/ccm  ~/bin/ccmctl  ~/bin/ccm-quickstart       replaced at once, or not at all
#   ~/config/ccm-config.toml                            never replaced: a new one is laid beside it, the difference shown
#   ~/.bashrc, ~/.zshrc, fish's conf.d                  one marked block (not with --no-shell)
#   $WORKSPACE/bin                                      links, where that variable is set or the folder is there
#
# Asks nothing, needs no network, no pip and no root; may be run again. PREFIX or --prefix places bin/ and config/ elsewhere
# than in the home directory. Ends after 300 s at the latest. Exit codes: 0 done, 1 not possible (nothing was changed), 2 usage.
# shellcheck disable=SC2016,SC2015  # quoted text is meant for the user's shell; `a && b || full`: full ends the script

main() {
    set +e -u # Sindri's manager sources its own settings before
    [ -z "${BASH_VERSION:-}" ] || eval 'set +o pipefail'
    umask 022
    began=$(now)
    from=${CCM_FILE:-} base=${PREFIX:-} shell=yes quiet=
    while [ $# -gt 0 ]; do
        case $1 in
            --from | --prefix) [ $# -gt 1 ] || usage "$1 wants a value" ;;
        esac
        case $1 in
            --from) from=$2; shift ;;
            --prefix) base=$2; shift ;;
            --no-shell) shell=no ;;
            --quiet) quiet=yes ;;
            --yes | -y) ;; # there is nothing to ask
            -h | --help) sed -n '2,/^# shellcheck/s/^# \{0,1\}//p' "$0" | sed '/^shellcheck/d'; exit 0 ;;
            *) usage "unknown: $1" ;;
        esac
        shift
    done
    [ -n "${HOME:-}" ] || fail "HOME is not set"
    [ -d "$HOME" ] || fail "the home directory does not exist: $HOME"
    case $base in
        '') base=$HOME ;;
        /*) ;;
        *) base=$PWD/$base ;;
    esac
    state=$HOME/.claude-code-mux
    bin=$base/bin config=$base/config/ccm-config.toml
    staged='' made='' links='' lines=''
    trap 'give_up; exit 130' INT
    trap 'give_up; exit 143' TERM
    trap 'give_up; exit 129' HUP

    python=$(find_python) || fail "Python 3.10 or newer is needed (python3 is $(python3 -V 2>&1 || echo missing)); PYTHON=/path/to/python names one"
    dir=$(here)
    file=$(find_file) || exit 1
    version=$(version_of "$file") || fail "$file is no ccm that runs here"
    whole "$file" || fail "$file is damaged; nothing was changed"
    before=$(version_of "$bin/ccm" || :)

    for place in "$HOME" "$base"; do
        if [ -d "$place" ]; then
            [ -w "$place" ] || fail "$place cannot be written (a read-only file system? another user's?): PREFIX=/some/dir and HOME=/some/dir choose others"
        fi
    done

    # ---- everything is written beside its place first; until `commit` nothing has changed
    new_dir "$state" 700
    new_dir "$base" 755
    new_dir "$bin" 755
    new_dir "$base/config" 755
    stage "$bin/ccm" 755 with_shebang "$file"
    stage "$bin/ccmctl" 755 inside "$file" templates/ccmctl.sh
    stage "$bin/ccm-quickstart" 755 inside "$file" templates/quickstart.sh
    beside=
    fresh=$(temporary "$config")
    inside "$file" templates/ccm-config.toml.template >"$fresh" && chmod 600 "$fresh" || full "$fresh"
    if [ ! -e "$config" ]; then
        staged="$staged$fresh	$config
"
    elif cmp -s "$fresh" "$config"; then
        rm -f "$fresh"
    else
        beside=$config.new
        staged="$staged$fresh	$beside
"
    fi
    for script in upgrade.sh uninstall.sh; do
        [ ! -f "$dir/$script" ] || stage "$state/$script" 700 cat "$dir/$script"
    done
    stage_links
    [ "$shell" = no ] || stage_shells
    note=$state/installed
    { [ ! -f "$note" ] || cat "$note"; printf '%s' "$made$links"; printf 'base %s\n' "$base"; } | sort -u >"$(temporary "$note")" || full "$note"
    staged="$(temporary "$note")	$note
$staged" # first, so that whatever comes after it can be taken away again
    fsync_staged || full "$base"
    commit

    "$python" "$bin/ccm" --pyz-compile </dev/null >/dev/null 2>&1 || :
    [ -n "$quiet" ] || report
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    give_up
    exit 1
}
usage() {
    printf 'install.sh: %s (see: sh install.sh --help)\n' "$1" >&2
    exit 2
}
full() { fail "$1 cannot be written: $(df -P "$(dirname -- "$1")" 2>/dev/null | awk 'NR == 2 { print $4 " KB are free there" }'); nothing was changed"; }
now() { date +%s; }

# A command, ended when the 300 s are over.
limit() {
    left=$((began + 300 - $(now)))
    [ "$left" -gt 0 ] || fail "not done within 300 s"
    if command -v timeout >/dev/null 2>&1; then timeout "$left" "$@" </dev/null; else "$@" </dev/null; fi
}

# The directory this file stands in; nothing when it comes through a pipe.
here() {
    case $0 in */install.sh | install.sh) ;; *) return 0 ;; esac
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

# The one-file ccm to install: named, built from this checkout, or beside this script.
find_file() {
    if [ -n "$from" ]; then
        [ -f "$from" ] || fail "there is no $from"
        printf '%s\n' "$from"
        return 0
    fi
    if [ -n "$dir" ] && [ -f "$dir/build-pyz" ] && [ -f "$dir/../setup.cfg" ]; then
        root=$(CDPATH='' cd -- "$dir/.." && pwd)
        if limit "$python" "$dir/build-pyz" >&2; then
            printf '%s\n' "$root/dist/ccm"
            return 0
        fi
        [ -f "$root/dist/ccm" ] || fail "ccm could not be built"
        printf 'install.sh: taking the dist/ccm that is there\n' >&2
    fi
    for candidate in "$dir/ccm" "$dir/dist/ccm" "$dir/../dist/ccm"; do
        [ -n "$dir" ] && [ -f "$candidate" ] || continue
        printf '%s\n' "$candidate"
        return 0
    done
    fail "there is no ccm beside this script: unpack the whole release and run \`sh install.sh\` in it, or name the file with --from"
}

version_of() {
    [ -f "$1" ] || return 1
    told=$(limit "$python" "$1" --version 2>/dev/null) || return 1
    case $told in "ccm "[0-9]*.[0-9]*.[0-9]*) printf '%s\n' "${told#ccm }" ;; *) return 1 ;; esac
}

# Every file in it is the one its manifest names; and it is the one that the release's checksum names, where that is there.
whole() {
    limit "$python" "$1" --pyz-verify || return 1
    if [ -f "$1.sha256" ] && command -v sha256sum >/dev/null 2>&1; then
        [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$(cut -d' ' -f1 <"$1.sha256")" ] || return 1
    fi
}

inside() { limit "$python" "$1" --pyz-read "$2"; }

# The file; where `python3` is too old for it, with the Python that is not in its first line.
with_shebang() {
    if python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' </dev/null 2>/dev/null; then
        cat "$1"
    else
        printf '#!%s\n' "$python" && tail -n +2 "$1"
    fi
}

temporary() { printf '%s.ccm-install.%s' "$1" "$$"; }

# A directory that has to be there; those made now are noted, to be removed again.
new_dir() {
    [ ! -d "$1" ] || return 0
    new_dir "$(dirname -- "$1")" 755
    mkdir "$1" 2>/dev/null && chmod "$2" "$1" || full "$1"
    made="${made}dir $1
"
}

# stage PLACE MODE COMMAND...: what the command prints, beside the place.
stage() {
    place=$1 mode=$2
    shift 2
    new=$(temporary "$place")
    "$@" >"$new" 2>/dev/null && chmod "$mode" "$new" || { rm -f "$new"; full "$place"; }
    staged="$staged$new	$place
"
}

stage_links() {
    workspace=${WORKSPACE:-$HOME/workspace}
    [ -n "${WORKSPACE:-}" ] || [ -d "$workspace" ] || [ -f "$dir/extension.yaml" ] || return 0
    [ "$workspace/bin" != "$bin" ] || return 0
    new_dir "$workspace" 755
    new_dir "$workspace/bin" 755
    for name in ccm ccmctl ccm-quickstart; do
        link=$workspace/bin/$name
        if [ -h "$link" ] && [ "$(readlink "$link")" = "$bin/$name" ]; then
            links="${links}link $link
"
        elif [ ! -e "$link" ] && [ ! -h "$link" ]; then
            ln -s "$bin/$name" "$link" 2>/dev/null || full "$link"
            lines="$lines$link
"
            links="${links}link $link
"
        else
            printf 'install.sh: %s is there and stays as it is\n' "$link" >&2
        fi
    done
}

quoted() { printf "'"; printf '%s' "$1" | sed "s/'/'\\\\''/g"; printf "'"; }

# What the shells get. Sindri's manager writes the same three exports and finds them here.
block() {
    if [ "$base" = "$HOME" ]; then folder='"$HOME/bin"'; else folder=$(quoted "$bin"); fi
    printf '%s\n' \
        'export ANTHROPIC_BASE_URL="http://127.0.0.1:13456"' \
        '[ "${ANTHROPIC_API_KEY:-ccm-proxy}" = ccm-proxy ] || export CCM_ANTHROPIC_API_KEY="$ANTHROPIC_API_KEY"' \
        'export ANTHROPIC_API_KEY="ccm-proxy"' \
        'export PATH="${WORKSPACE:-${HOME}/workspace}/bin:$PATH"' \
        "case \":\$PATH:\" in *:$folder:*) ;; *) PATH=$folder:\"\$PATH\" ;; esac"
}

fish_block() {
    if [ "$base" = "$HOME" ]; then folder='"$HOME/bin"'; else folder=$(quoted "$bin"); fi
    printf '%s\n' \
        '# Written by the installer of claude-code-mux; uninstall.sh removes it.' \
        'if set -q ANTHROPIC_API_KEY; and test "$ANTHROPIC_API_KEY" != ccm-proxy' \
        '    set -gx CCM_ANTHROPIC_API_KEY $ANTHROPIC_API_KEY' \
        'end' \
        'set -gx ANTHROPIC_BASE_URL http://127.0.0.1:13456' \
        'set -gx ANTHROPIC_API_KEY ccm-proxy' \
        "contains -- $folder \$PATH; or set -gx PATH $folder \$PATH"
}

stage_shells() {
    stage_block "$HOME/.bashrc"
    case ${SHELL:-} in */zsh) zsh=yes ;; *) zsh=no ;; esac
    if [ -e "$HOME/.zshrc" ] || [ "$zsh" = yes ]; then stage_block "$HOME/.zshrc"; fi
    case ${SHELL:-} in */fish) fish=yes ;; *) fish=no ;; esac
    if [ -d "$HOME/.config/fish" ] || [ "$fish" = yes ]; then
        new_dir "$HOME/.config" 700
        new_dir "$HOME/.config/fish" 755
        new_dir "$HOME/.config/fish/conf.d" 755
        stage "$HOME/.config/fish/conf.d/claude-code-mux.fish" 644 fish_block
    fi
}

# The file with our block as its end. Its first line says what has to be undone besides: a file made, a last line ended.
stage_block() {
    rc=$1
    if [ -h "$rc" ]; then
        rc=$(readlink -f "$rc" 2>/dev/null) || { printf 'install.sh: %s leads nowhere and stays as it is\n' "$1" >&2; return 0; }
    fi
    new=$(temporary "$rc")
    if [ ! -e "$rc" ]; then
        { say '# >>> claude-code-mux >>> made by its installer' && block && say '# <<< claude-code-mux <<<'; } >"$new" &&
            chmod 644 "$new" || full "$rc"
    else
        if [ ! -w "$rc" ] || [ ! -f "$rc" ]; then
            printf 'install.sh: %s cannot be written and stays as it is\n' "$rc" >&2
            return 0
        fi
        if grep -q '^# >>> claude-code-mux >>>' "$rc"; then
            # in its place: what follows it may rely on it
            first=$(grep '^# >>> claude-code-mux >>>' "$rc" | head -n 1)
            if [ "$(grep -c '^# >>> claude-code-mux >>>' "$rc")" != 1 ] || [ "$(grep -c '^# <<< claude-code-mux <<<' "$rc")" != 1 ]; then
                printf 'install.sh: the block of claude-code-mux in %s has lost its marks and stays as it is\n' "$rc" >&2
                return 0
            fi
            cp -p "$rc" "$new" && {
                sed '/^# >>> claude-code-mux >>>/,$d' "$rc" && say "$first" && block &&
                    sed '1,/^# <<< claude-code-mux <<</d' "$rc" | { say '# <<< claude-code-mux <<<'; cat; }
            } >"$new" || full "$rc"
            if cmp -s "$new" "$rc"; then rm -f "$new"; return 0; fi
        else
            joined=
            [ ! -s "$rc" ] || [ -z "$(tail -c 1 "$rc")" ] || joined=' behind a line without an end'
            cp -p "$rc" "$new" && {
                { [ -z "$joined" ] || say ''; } && say "# >>> claude-code-mux >>>$joined" && block &&
                    say '# <<< claude-code-mux <<<'
            } >>"$new" || full "$rc"
        fi
    fi
    staged="$staged$new	$rc
"
}

each_staged() { # calls "$1" with the new file and its place
    command=$1
    printf '%s' "$staged" | while IFS='	' read -r new place; do
        "$command" "$new" "$place" || exit 1
    done
}

fsync_staged() {
    printf '%s' "$staged" | cut -f1 | tr '\n' '\0' | xargs -0 "$python" -c '
import os, sys
for name in sys.argv[1:]:
    fd = os.open(name, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)' 2>/dev/null
}

commit() {
    each_staged put || fail "a file could not be put into its place; what was done is kept: run this again"
    staged='' made='' lines=''
}
put() { mv -f "$1" "$2"; }
drop() { rm -f "$1"; }

# As it was: staged files, new links and new directories go away again.
give_up() {
    [ -z "${staged:-}" ] || each_staged drop
    printf '%s' "${lines:-}" | while read -r link; do rm -f "$link"; done
    printf '%s' "${made:-}" | sort -r | while read -r _ path; do rmdir "$path" 2>/dev/null || :; done
    for file in "${bin:-}/ccm" "${config:-}" "${config:-}.new" "${state:-}/installed" "${HOME:-}/.bashrc" "${HOME:-}/.zshrc"; do
        rm -f "$(temporary "$file")" 2>/dev/null || :
    done
    staged='' made='' lines=''
}

report() {
    if [ -z "$before" ]; then what="ccm $version is installed"; else what="ccm $version is installed (before: $before)"; fi
    say "$what, in $(($(now) - began)) s: $bin/ccm, ccmctl, ccm-quickstart; $config"
    if [ -n "$beside" ]; then
        say "Your $config stays as it is. The template of this version is $beside; the difference:"
        diff -u "$config" "$beside" 2>/dev/null | sed -n '3,200s/^/  /p'
    fi
    if "$python" "$bin/ccm" ctl health </dev/null >/dev/null 2>&1; then
        say "A ccm is running: \`ccmctl restart --handover\` puts the new one in its place without losing a stream."
    fi
    say 'Next, in a new terminal (or after `. ~/.bashrc`):'
    say '  ccm-quickstart        finds your keys and writes the configuration'
    say '  ccmctl start          starts it in the background; `ccm start` in this terminal'
    say '  claude                Claude Code uses it from now on'
    say "Without it again: sh $(case $state in *[!A-Za-z0-9_./-]*) quoted "$state/uninstall.sh" ;; *) say "$state/uninstall.sh" ;; esac)"
}

main "$@"
