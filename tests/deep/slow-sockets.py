"""Thousands of slow and silent sockets against a hub, and an honest client beside them.

    slow-sockets.py PORT PROCESS LINK COUNT → Markdown; ends badly if a promise is broken

The honest client is a process of its own: a new connection for each request, /healthz and a file of 256 KiB on a link in
turn. How many sockets the hub holds is read from /proc, because a client cannot see the end behind bytes that it does not
read.
"""

import http.client
import multiprocessing
import os
import resource
import selectors
import socket
import sys
import time

PORT, PROCESS, LINK, COUNT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
HOST = f"127.0.0.1:{PORT}"
CLOSED_WITHIN = 25
BESIDE = 12

HEAD = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nX: {'x' * 500}\r\n\r\n".encode()
BODY = f"PUT /chunks/00000000000000000000000000000000 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n".encode()
SOCKET = (f"GET /ws/device HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: lanyard.v2\r\n\r\n").encode()
READER = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
# What is said at once, and what a byte a second.
KINDS = {
    "silent": (b"", b""),
    "a head, 1 byte/s": (b"", HEAD),
    "a body, 1 byte/s": (BODY, b"{" * 1000),
    "a reader, 1 byte/s": (READER, b""),
    "a WebSocket that proves nothing": (SOCKET, b""),
}


def sockets_of_hub():
    count = 0
    for descriptor in os.listdir(f"/proc/{PROCESS}/fd"):
        try:
            count += os.readlink(f"/proc/{PROCESS}/fd/{descriptor}").startswith("socket:")
        except OSError:
            pass
    return count


def resident():
    for line in open(f"/proc/{PROCESS}/status", encoding="ascii"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024


def ask(path):
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    connection.request("GET", path, headers={"Connection": "close"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    good = answer.status == 200 and (path == "/healthz" or len(body) == 256 * 1024)
    return time.perf_counter() - started, good


def honest(seconds, out):
    took, failures, until = {"/healthz": [], LINK: []}, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for path in took:
            try:
                duration, good = ask(path)
                took[path].append(duration)
                failures += not good
            except OSError:
                failures += 1
        time.sleep(0.005)
    out.put((took, failures))


class Honest:
    def __init__(self, seconds):
        self.out = multiprocessing.Queue()
        self.process = multiprocessing.Process(target=honest, args=(seconds, self.out))
        self.process.start()

    def result(self):
        found = self.out.get()
        self.process.join()
        return found


class Hostile:
    def __init__(self, kind):
        self.kind = kind
        at_once, self.slowly = KINDS[kind]
        self.socket = socket.socket()
        if "reader" in kind:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.connect(("127.0.0.1", PORT))
        self.socket.setblocking(False)
        self.opened, self.ended = time.monotonic(), None
        try:
            self.socket.send(at_once)
        except OSError:
            self.end()

    def end(self):
        if self.ended is None:
            self.ended = time.monotonic() - self.opened

    def step(self):
        """A byte out, a byte in: once a second."""
        try:
            if self.slowly:
                self.slowly = self.slowly[self.socket.send(self.slowly[:1]):]
            amount = 1 if "reader" in self.kind else 4096
            if self.socket.recv(amount) == b"":
                self.end()
        except BlockingIOError:
            pass
        except OSError:
            self.end()


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] * 1000


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    idle_sockets, idle_memory = sockets_of_hub(), resident()
    before = Honest(BESIDE).result()
    beside = Honest(BESIDE)
    kinds, crowd = list(KINDS), []
    started = time.monotonic()
    for number in range(COUNT):
        crowd.append(Hostile(kinds[number % len(kinds)]))
    connected = time.monotonic() - started
    most, memory, gone = 0, idle_memory, None
    while time.monotonic() - started < CLOSED_WITHIN + 10:
        turn = time.monotonic()
        for one in crowd:
            if one.ended is None:
                one.step()
        held = sockets_of_hub()
        most, memory = max(most, held), max(memory, resident())
        if gone is None and time.monotonic() - started > BESIDE + 2 and held <= idle_sockets + 3:
            gone = time.monotonic() - started
            break
        time.sleep(max(0, 1 - (time.monotonic() - turn)))
    with_crowd = beside.result()
    left = sockets_of_hub() - idle_sockets
    for one in crowd:
        one.socket.close()
    after = Honest(BESIDE).result()
    baseline = {path: before[0][path] + after[0][path] for path in before[0]}

    print("## Slow and silent sockets\n")
    print(f"{COUNT} at once from one address, {COUNT // len(kinds)} of each kind ({', '.join(kinds)}), all connected after "
          f"{connected:.1f} s. The hub held {most} sockets at most, took {memory - idle_memory:.1f} MiB more than idle, and had let "
          + (f"all of them go after {gone:.0f} s.\n" if gone else f"NOT all go: {left} were left.\n"))
    print("| Honest client | p50 without | p50 with | p99 without | p99 with | times |\n|---|---|---|---|---|---|")
    good = gone is not None and gone <= CLOSED_WITHIN
    for path, name in (("/healthz", "`/healthz`"), (LINK, "256 KiB on a link")):
        calm, crowded = baseline[path], with_crowd[0][path]
        times = quantile(crowded, 0.99) / quantile(calm, 0.99)
        good &= times < 2
        print(f"| {name}, {len(calm)} and {len(crowded)} requests | {quantile(calm, 0.5):.2f} ms | {quantile(crowded, 0.5):.2f} ms "
              f"| {quantile(calm, 0.99):.2f} ms | {quantile(crowded, 0.99):.2f} ms | {times:.2f} |")
    failures = before[1] + with_crowd[1] + after[1]
    print(f"\nHonest requests that failed: {failures} ({with_crowd[1]} of them beside the crowd).")
    sys.exit(0 if good and failures == 0 else 1)


main()
