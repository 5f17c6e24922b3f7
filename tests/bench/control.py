"""The control plane: many idle WebSocket clients, what they cost a hub, and when each has read one broadcast.

PairDrop's clients need no keys and live here, in one epoll loop. Lanyard's prove theirs and live in `swarm.mjs`."""
from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct
import time

from core import HERE, med, percentiles

ROUNDS = 10
SETTLE_S = IDLE_S = 3
PATIENCE_S = 10
# What PairDrop's page says, and what it hears when one more has come.
PAIRDROP = dict(path="/server?webrtc_supported=true", hello=b'{"type":"join-ip-room"}', ping=b'{"type":"ping"}', pong=b'{"type":"pong"}', marker=b'"type":"peer-joined"')


class Load:
    """What a hub's processes hold and use, before and while the clients are there."""

    def __init__(self, run):
        self.run = run
        time.sleep(0.5)
        self.before = self._rss()

    def _hub(self):
        return self.run.role("hub") + self.run.role("master")

    def _rss(self):
        return {p.role: p.rss() for p in self._hub()}

    def idle(self, clients: int, wait) -> dict:
        """`wait(seconds)` lets time pass while the clients stay alive."""
        wait(SETTLE_S)
        start = sum(p.cpu() for p in self._hub())
        wait(IDLE_S)
        cores = (sum(p.cpu() for p in self._hub()) - start) / IDLE_S
        now = self._rss()
        grown = {role: (now[role] - self.before[role]) / clients / 1024 for role in now}
        return dict(clients=clients, idle_rss=self.before["hub"], loaded_rss=now["hub"], kib_per_client=grown["hub"],
                    kib_per_client_all=sum(grown.values()), idle_cpu_cores=cores)


def middle(rounds: list[dict]) -> dict:
    return {key: med([r[key] for r in rounds]) for key in ("p50_ms", "p99_ms", "max_ms")}


# ---------------------------------------------------------------- Lanyard: swarm.mjs
def lanyard(run, origin: str, clients: int) -> dict:
    load = Load(run)
    swarm = run.spawn("clients", [run.tool("node"), HERE / "swarm.mjs", origin, clients, ROUNDS], pipe=True)
    connected = tell(swarm)
    result = load.idle(clients, time.sleep)
    swarm.p.stdin.write(b"go\n")
    swarm.p.stdin.flush()
    rounds = [tell(swarm) for _ in range(ROUNDS)]
    if short := [r for r in rounds if r["seen"] < clients - 1]:
        raise RuntimeError(f"not all of {clients - 1} read of an addition: {short[0]}")
    return dict(result, **connected, **middle(rounds), floor=tell(swarm))


def tell(swarm) -> dict:
    line = swarm.p.stdout.readline()
    if not line:
        raise RuntimeError(f"the clients died: {swarm.said()}")
    return json.loads(line)


# ---------------------------------------------------------------- PairDrop: clients in this process
def frame(payload: bytes) -> bytes:
    n = len(payload)
    head = b"\x81" + (bytes([0x80 | n]) if n < 126 else b"\xfe" + struct.pack(">H", n))
    return head + b"\0\0\0\0" + payload  # Masked with zeros, so the payload stays as it is.


class Swarm:
    """Idle clients, read by substring: nothing is parsed."""

    def __init__(self, port, spec):
        self.port, self.spec = port, spec
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.seen: dict[int, float] = {}
        self.watching = False
        self.dead = 0

    def add(self) -> int:
        s = socket.create_connection(("127.0.0.1", self.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        s.sendall((f"GET {self.spec['path']} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nUser-Agent: Mozilla/5.0 (X11; Linux) Chrome/120.0\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = s.recv(4096)
            head += part
            if not part:
                break
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"no WebSocket: {head[:200]!r}")
        s.sendall(frame(self.spec["hello"]))
        s.setblocking(False)
        self.sockets[s.fileno()] = s
        self.epoll.register(s.fileno(), select.EPOLLIN)
        return s.fileno()

    def drop(self, fd):
        self.epoll.unregister(fd)
        self.sockets.pop(fd).close()

    def pump(self, seconds: float, wanted: int | None = None):
        """Reads everything for so long, or until so many have seen the marker."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0 and not (wanted and len(self.seen) >= wanted):
            for fd, _ in self.epoll.poll(min(0.05, left), 512):
                self._read(fd)

    def _read(self, fd):
        try:
            data = self.sockets[fd].recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.epoll.unregister(fd)
            self.dead += 1
            return
        if self.watching and fd not in self.seen and self.spec["marker"] in data:
            self.seen[fd] = time.perf_counter()
        if self.spec["ping"] in data:
            self.sockets[fd].sendall(frame(self.spec["pong"]))

    def one_more(self) -> list[float]:
        """One joins: after how many seconds each of the others has read of it."""
        members = list(self.sockets)
        self.seen.clear()
        self.watching = True
        start = time.perf_counter()
        guest = self.add()
        self.pump(PATIENCE_S, len(members))
        self.watching = False
        late = [self.seen[fd] - start for fd in members if fd in self.seen]
        self.drop(guest)
        self.pump(0.7)
        if len(late) < len(members):
            raise RuntimeError(f"a broadcast reached only {len(late)} of {len(members)} ({self.dead} closed)")
        return late

    def close(self):
        for s in self.sockets.values():
            s.close()


def pairdrop(run, port: int, clients: int) -> dict:
    load = Load(run)
    swarm = Swarm(port, PAIRDROP)
    start = time.perf_counter()
    for i in range(clients):
        swarm.add()
        if i % 20 == 19:
            swarm.pump(0.01)
    took = time.perf_counter() - start
    try:
        result = load.idle(clients, swarm.pump)
        return dict(result, connect_s=took, **middle([percentiles(swarm.one_more()) for _ in range(ROUNDS)]))
    finally:
        swarm.close()
