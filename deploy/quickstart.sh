#!/usr/bin/env bash
# quickstart.sh AGENT
# A receiver, and an agent that watches its own connection to it. Once, the receiver goes away for a while, so that the
# link is seen to go down and to come back. Ctrl-C ends both, first the agent, so that its last points still arrive.
set -euo pipefail
# Each in a process group of its own: Ctrl-C reaches this script alone, which ends them in order.
set -m

agent=${1:?the path of vms-agent}
host=127.0.0.1 port=4317
sink='' run='' timer=''

say() { printf '\n>>> %s\n\n' "$*" >&2; }

stop() {
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

end() {
    trap '' INT TERM HUP
    stop "$run"
    stop "$sink"
    stop "$timer"
    exit "$1"
}
trap 'end 0' INT TERM HUP

# Should this script be killed, the kernel ends them too.
start() { setpriv --pdeathsig TERM "$@" </dev/null & }

listens() { (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; }

start_sink() {
    start "$agent" sink
    sink=$!
    until listens; do
        kill -0 "$sink" 2>/dev/null || { say 'The receiver has ended.'; end 1; }
        sleep 0.1
    done
}

# Returns when the seconds are over; if one of the two ends by itself before, so does everything.
watch() {
    start sleep "$1"
    timer=$!
    local ended=''
    # shellcheck disable=SC2086 # The receiver may be away.
    wait -n -p ended $run $sink "$timer" || true
    [ "$ended" = "$timer" ] || { say 'One of the two has ended by itself: so does the other.'; end 1; }
}

if listens; then
    say "Port $port of $host is taken. This shows who listens there: ss -tlnp 'sport = :$port'"
    exit 1
fi
say "Points of the link agent-to-sink arrive below: down before the agent has connected, then up. Ctrl-C ends. Elsewhere: ss -tnp 'dport = :$port'"
start_sink
start "$agent" run --config config/quickstart.yaml
run=$!

watch 15
say 'The receiver goes away for 6 seconds: the link is down, and the agent keeps what it measures.'
stop "$sink"
sink=''
watch 6
say 'The receiver is back: what was measured meanwhile arrives (up 0), then the link is up again.'
start_sink
watch infinity
