#!/bin/sh
# ccmctl: the control script, installed as ~/bin/ccmctl.
#
#   ccmctl start [options of `ccm start`]   start ccm in the background and wait until it answers
#   ccmctl stop [--now]                     stop it, after the running requests or at once
#   ccmctl restart [options]                both
#   ccmctl restart --handover               the program on disk takes over from the running one; no stream is lost
#   ccmctl service install | remove         lets systemd or launchd run it, from every login on
#   ccmctl logs [-f] [-n LINES]             its log
#   ccmctl anything else                    asks the running ccm: status, providers, switch openai, metrics, --help ...
#
# Files: ~/.claude-code-mux/ccm.log, ccm.pid (process and its start time) and start.lock (while it starts). Exit codes:
# those of ccm (0 done, 1 failed, 2 usage or configuration, 3 not running, 98 port in use). CCM_BIN names the ccm to use, CCM_START_WAIT the seconds to wait for it (20).
# shellcheck disable=SC2015,SC2119,SC2120  # `a && b || c`: c is meant for both; functions take the words they are given
set -u
umask 077

home="${HOME:?HOME is not set}/.claude-code-mux"
log="$home/ccm.log"
pidfile="$home/ccm.pid"
wait_s="${CCM_START_WAIT:-20}"

say() { printf 'ccmctl: %s\n' "$*" >&2; }

# The directory this file stands in, behind symbolic links.
here() {
    file=$0
    while [ -h "$file" ]; do
        link=$(readlink "$file") || break
        case $link in /*) file=$link ;; *) file=$(dirname -- "$file")/$link ;; esac
    done
    (CDPATH='' cd -- "$(dirname -- "$file")" && pwd)
}

# The `ccm` to run: $CCM_BIN, beside this script, in a checkout's environment, in ccm's own one, on the PATH.
find_ccm() {
    dir=$(here)
    for candidate in "${CCM_BIN:-}" "$dir/ccm" "$dir/../.venv/bin/ccm" "$home/venv/bin/ccm"; do
        if [ -n "$candidate" ] && [ -f "$candidate" ] && [ -x "$candidate" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    command -v ccm
}

ccm=$(find_ccm) || { say "there is no ccm: install it, or set CCM_BIN"; exit 1; }

# When a process began, so that a number used again by the system is not taken for ccm. Nothing if there is none.
started_at() {
    if [ -r "/proc/$1/stat" ]; then
        # the name in parentheses may hold anything; the 20th field behind it is the start time
        sed -e 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
    else
        ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' '_'
    fi
}

# The pid of the ccm this script started, if it still is that process.
own_pid() {
    [ -r "$pidfile" ] || return 1
    read -r pid began <"$pidfile" || return 1
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ] && printf '%s\n' "$pid"
}

pause() { sleep 0.1 2>/dev/null || sleep 1; }
now() { date +%s; }

# What ccm wrote since it was started, the end of it.
last_lines() {
    [ -f "$log" ] || return 0
    say "the last lines of $log:"
    tail -c "+$((log_size + 1))" "$log" 2>/dev/null | tail -n 15 | sed 's/^/  /' >&2
}

# Only one of two starts at the same time goes on. The lock is a directory: made by one, whatever the shell; it names its
# owner, and one whose owner is gone is nobody's.
lock() {
    while ! mkdir "$home/start.lock" 2>/dev/null; do
        [ -d "$home/start.lock" ] || return 1
        owner='' began=''
        read -r owner began <"$home/start.lock/pid" 2>/dev/null
        if [ -n "$owner" ] && [ "$(started_at "$owner")" != "$began" ]; then
            mv "$home/start.lock" "$home/start.lock.$$" 2>/dev/null && rm -rf "$home/start.lock.$$"
            continue
        fi
        [ "$(now)" -lt "$1" ] || return 2
        pause
    done
    printf '%s %s\n' "$$" "$(started_at "$$")" 2>/dev/null >"$home/start.lock/pid" || { rm -rf "$home/start.lock"; return 1; }
}
unlock() { rm -rf "$home/start.lock"; }

# What is written there, if anything can be.
usable() {
    if ! mkdir -p "$home" 2>/dev/null; then
        say "$home cannot be made: is $HOME on a read-only file system, or another user's?"
        return 1
    fi
    chmod 700 "$home" 2>/dev/null
    if [ ! -w "$home" ]; then
        say "$home cannot be written: is it on a read-only file system, or another user's?"
        return 1
    fi
    if ! printf 'x\n' 2>/dev/null >"$home/.room.$$" || [ ! -s "$home/.room.$$" ]; then
        rm -f "$home/.room.$$"
        say "$home cannot be written: $(df -P "$home" | awk 'NR == 2 { print $4 " KB are free there" }')"
        return 1
    fi
    rm -f "$home/.room.$$"
}

start() {
    usable || return 1
    # the answer must come from the ccm that is started here: hand its socket on
    for word in "$@"; do
        if [ "${take:-}" = yes ]; then CCM_SOCKET=$word; export CCM_SOCKET; take=no; fi
        case $word in
            --socket) take=yes ;;
            --socket=*) CCM_SOCKET=${word#--socket=}; export CCM_SOCKET ;;
            -h | --help) exec "$ccm" start --help ;;
        esac
    done
    if "$ccm" ctl health >/dev/null 2>&1; then
        say "ccm is running already (ccmctl status, ccmctl restart)"
        return 0
    fi
    end=$(($(now) + wait_s))
    lock "$end"
    case $? in
        1) say "$home/start.lock cannot be made"; return 1 ;;
        2) say "another \`ccmctl start\` is not done after $wait_s s (it has $home/start.lock)"; return 1 ;;
    esac
    trap 'unlock; exit 130' INT
    trap 'unlock; exit 143' TERM HUP
    if "$ccm" ctl health >/dev/null 2>&1; then # somebody else was faster
        unlock
        say "ccm is running already (ccmctl status, ccmctl restart)"
        return 0
    fi
    launch "$@"
    code=$?
    unlock
    return "$code"
}

launch() {
    rm -f "$pidfile" # of a process that is gone, whoever has its number now
    log_size=0
    [ -f "$log" ] && log_size=$(wc -c <"$log")
    CCM_LOG_FILE="${CCM_LOG_FILE:-$log}" nohup "$ccm" start "$@" </dev/null >>"$log" 2>&1 &
    pid=$!
    note_pid "$pid"
    while [ "$(now)" -lt "$end" ]; do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid"
            code=$?
            rm -f "$pidfile"
            say "ccm ended at once, with exit code $code"
            last_lines
            [ "$code" -ne 0 ] || code=1
            return "$code"
        fi
        if "$ccm" ctl health >/dev/null 2>&1; then
            "$ccm" ctl status
            return 0
        fi
        pause
    done
    say "ccm (process $pid) runs, but does not answer after $wait_s s"
    last_lines
    return 1
}

note_pid() {
    printf '%s %s\n' "$1" "$(started_at "$1")" 2>/dev/null >"$pidfile.$$" && mv -f "$pidfile.$$" "$pidfile" || {
        rm -f "$pidfile.$$"
        say "$pidfile cannot be written; ccm runs without it"
    }
}

# The new process has the old one's sockets; its number is the one to remember, if we remembered the old one's.
handover() {
    "$ccm" ctl restart "$@"
    code=$?
    [ "$code" -eq 0 ] && [ -f "$pidfile" ] || return "$code"
    new=$("$ccm" ctl health --json 2>/dev/null | tr -d ' "\n' | tr -s ',{}' '\n' | sed -n 's/^pid:\([0-9][0-9]*\)$/\1/p')
    [ -z "$new" ] || note_pid "$new"
    return 0
}

stop() {
    pid=$(own_pid) || pid=
    "$ccm" ctl stop "$@"
    code=$?
    if [ "$code" -eq 3 ] && [ -n "$pid" ]; then
        say "it does not answer, but its process $pid is there: sending SIGTERM"
        kill "$pid" 2>/dev/null
        code=0
    fi
    [ "$code" -eq 0 ] || { [ -n "$pid" ] || rm -f "$pidfile"; return "$code"; }
    end=$(($(now) + 60))
    while [ "$(now)" -lt "$end" ]; do
        if [ -n "$pid" ]; then
            [ "$(own_pid)" = "$pid" ] || { rm -f "$pidfile"; return 0; }
        else
            "$ccm" ctl health >/dev/null 2>&1
            [ $? -ne 3 ] || return 0
        fi
        pause
    done
    say "ccm has not ended after 60 s (ccmctl status; ccmctl stop --now)"
    return 1
}

logs() {
    follow='' lines=50
    while [ $# -gt 0 ]; do
        case $1 in
            -f | --follow) follow=-F ;;
            -n) [ $# -gt 1 ] || { say "-n wants a number"; return 2; }; shift; lines=$1 ;;
            *) say "logs: unknown: $1 (-f follows, -n LINES)"; return 2 ;;
        esac
        shift
    done
    case $lines in '' | *[!0-9]*) say "-n wants a number"; return 2 ;; esac
    [ -f "$log" ] || { say "there is no $log yet: ccm was not started by \`ccmctl start\`"; return 1; }
    exec tail -n "$lines" ${follow:+"$follow"} "$log"
}

command=${1:-}
case $command in
    start | stop | restart | logs) shift ;;
    service) exec "$ccm" "$@" ;;
    *) exec "$ccm" ctl "$@" ;;
esac
case $command in
    restart)
        for word in "$@"; do
            if [ "$word" = --handover ]; then
                handover "$@"
                exit $?
            fi
        done
        stop
        code=$?
        [ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
        start "$@"
        ;;
    *) "$command" "$@" ;;
esac
