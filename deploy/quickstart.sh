#!/usr/bin/env bash
# quickstart.sh AGENT
# A receiver, and an agent that watches its own connection to it. Ctrl-C ends both, first the agent, so that its last
# points still arrive.
set -euo pipefail
# Each in a process group of its own: Ctrl-C reaches this script alone, which ends them in order.
set -m

agent=${1:?the path of vms-agent}
host=127.0.0.1 port=4317
sink='' run=''

end() {
    trap '' INT TERM HUP
    local pid
    for pid in $run $sink; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap 'end; exit 0' INT TERM HUP

listens() { (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; }

if listens; then
    echo "port $port of $host is taken: stop what listens there (ss -tlnp 'sport = :$port')" >&2
    exit 1
fi

# Should this script be killed, the kernel ends them too.
setpriv --pdeathsig TERM "$agent" sink </dev/null & sink=$!
until listens; do
    kill -0 "$sink" 2>/dev/null || { echo 'the receiver has ended' >&2; exit 1; }
    sleep 0.1
done
setpriv --pdeathsig TERM "$agent" run --config config/quickstart.yaml </dev/null & run=$!
echo "Points arrive below; Ctrl-C ends. Elsewhere: ss -tnp 'dport = :$port'" >&2

wait -n "$sink" "$run" || true
echo 'one of the two has ended by itself; so does the other' >&2
end
exit 1
