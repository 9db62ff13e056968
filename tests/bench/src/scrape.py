# Answers each line of its standard input with how many sockets each watch has: a line of cnxwatch's kind of watches each.
import ipaddress
import sys

import psutil

STATES = {0: None, 1: psutil.CONN_ESTABLISHED, 10: psutil.CONN_LISTEN}


def watch(line):
    kind, state, local, remote, local_port, remote_port, process = line.split()
    unspecified = ipaddress.ip_address(remote).is_unspecified
    return (kind, STATES[int(state)], local, None if unspecified else remote, int(local_port), int(remote_port),
            None if process == "-" else process)


def count(watch, sockets, names):
    _, state, local, remote, local_port, remote_port, process = watch
    found = 0
    for socket in sockets:
        if state is not None and socket.status != state:
            continue
        if socket.laddr.ip != local or (socket.raddr.ip if socket.raddr else None) != remote:
            continue
        if local_port and socket.laddr.port != local_port:
            continue
        if remote_port and (not socket.raddr or socket.raddr.port != remote_port):
            continue
        if process is not None:
            if socket.pid not in names:
                names[socket.pid] = psutil.Process(socket.pid).name() if socket.pid else None
            if names[socket.pid] != process:
                continue
        found += 1
    return found


with open(sys.argv[1], encoding="utf-8") as lines:
    WATCHES = [watch(line) for line in lines]
for _ in sys.stdin:
    told = {kind: psutil.net_connections(kind + "4") for kind in {watch[0] for watch in WATCHES}}
    names = {}
    print(*(count(watch, told[watch[0]], names) for watch in WATCHES), flush=True)
