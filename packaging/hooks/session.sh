# A database session that stays open from one hook to the next. Sourced by the hooks beside it.
#
#   hold NAME CLIENT...     start CLIENT, which reads commands from its standard input
#   tell NAME LINE          give it a line
#   wait_for NAME WORD      return when it has printed WORD; fail if it ended before that
#   let_go NAME             wait until it has ended (tell it to quit first), and clean up
#
# The session ends by itself HOLD_S seconds after it began, whatever becomes of the hooks: nothing
# may hold a database at rest for ever. cdpfs bounds the waiting (`cdpfs mark --timeout`).

HOLD_S=${HOLD_S:-600}
STATE=${CDPFS_HOOK_STATE:-${TMPDIR:-/tmp}/cdpfs-hooks-$(id -u)}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

hold() {
    _name=$1
    shift
    umask 077
    mkdir -p "$STATE" || fail "can't make $STATE"
    [ -O "$STATE" ] || fail "$STATE belongs to somebody else: set CDPFS_HOOK_STATE"
    # A session of a mark that was cut short has ended by now, or will not be disturbed.
    if [ -d "$STATE/$_name" ]; then
        alive "$_name" && fail "another mark holds a session (see $STATE/$_name)"
        rm -r "$STATE/$_name"
    fi
    mkdir "$STATE/$_name" || fail "can't make $STATE/$_name"
    mkfifo "$STATE/$_name/in" || fail "can't make a pipe in $STATE/$_name"
    # The sleeper keeps the pipe open; when it ends the client finds the end of its input.
    sleep "$HOLD_S" > "$STATE/$_name/in" 2> /dev/null &
    echo $! > "$STATE/$_name/sleeper"
    "$@" < "$STATE/$_name/in" > "$STATE/$_name/out" 2>&1 &
    echo $! > "$STATE/$_name/pid"
}

alive() {
    _pid=$(cat "$STATE/$1/pid" 2>/dev/null) && kill -0 "$_pid" 2>/dev/null
}

tell() {
    alive "$1" || fail "the session has ended: $(cat "$STATE/$1/out" 2>/dev/null)"
    # Opened for reading too, so that it can't block should the session end just now.
    printf '%s\n' "$2" 1<> "$STATE/$1/in"
}

wait_for() {
    until grep -q "$2" "$STATE/$1/out"; do
        alive "$1" || fail "the session failed: $(cat "$STATE/$1/out")"
        sleep 0.1
    done
}

let_go() {
    kill "$(cat "$STATE/$1/sleeper")" 2>/dev/null
    while alive "$1"; do sleep 0.1; done
    rm -r "$STATE/$1"
}
