"""A bad link between two network namespaces: what a kernel's netem does, for a kernel that has none.

    link.py [SEED [CONTROL]]   waits for lines on standard input, until that ends
    link.py --measure          how much it carries, as Markdown; ends badly below 50 Mbit/s

Each side, `a` (10.77.0.1) and `b` (10.77.0.2), is a namespace with one TAP device; every frame that one sends is read here,
goes through the model of its direction, and is written to the other, late, twice or never. The first line on standard
output is `ready A B CONTROL`: two paths for `nsenter --net=…`, and what controls congestion. Lines on standard input change
the link while it runs; each is answered by a line:

    both rate=5e6 delay=0.06 jitter=0.03 loss=0.02 burst=8      `ab` and `ba` are the directions alone
    both partition=1
    stats                                                       what was carried and lost so far, as JSON

The namespaces have no name and the devices no owner but this process: nothing is left behind, however it ends.
Needs Linux, root, /dev/net/tun and iproute2.
"""

import collections
import ctypes
import dataclasses
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
DEVICE = "wire"
# The first of these that a namespace may choose (not all that a kernel has). Both lower their rate at a loss.
CONGESTION = "cubic,reno"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LARGEST_FRAME = 2048
# Frames that are read from one side before the other has its turn.
BATCH = 64
PR_SET_PDEATHSIG, SIGKILL = 1, 9

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- the model: no clock and no sockets, so that a seed says all ---

@dataclasses.dataclass
class Settings:
    """One direction. Seconds, bits a second, shares of 1."""
    rate: float = 0  # 0: as fast as it comes
    delay: float = 0
    jitter: float = 0  # the delay is uniform in delay ± jitter, frame by frame
    loss: float = 0
    burst: float = 1  # frames that are lost in a row, on average: 1 is loss without memory
    duplicate: float = 0
    reorder: float = 0  # 1: a frame may overtake another when its jitter says so
    partition: float = 0  # 1: nothing passes, and nobody is told

    def queue_bytes(self):
        """What waits for the rate before the tail is dropped: 100 ms, and what a modest router has at least."""
        return max(64 * 1024, self.rate / 8 * 0.1)


class Way:
    """What becomes of the frames of one direction."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.settings = Settings()
        self.free_at = 0.0  # when the queue has drained
        self.last = 0.0  # when the last frame arrives
        self.in_burst = False
        self.count = collections.Counter()

    def is_lost(self):
        now = self.settings
        if now.loss <= 0:
            self.in_burst = False
            return False
        if now.burst <= 1:
            return self.random.random() < now.loss
        # Gilbert and Elliott: a good state that loses nothing, a bad one that loses all.
        leaves = 1 / now.burst if self.in_burst else now.loss / (now.burst * (1 - now.loss))
        if self.random.random() < leaves:
            self.in_burst = not self.in_burst
        return self.in_burst

    def times(self, at, size):
        """When a frame of `size` bytes that is sent at `at` arrives: never, once or twice."""
        now, count = self.settings, self.count
        count["frames"] += 1
        count["bytes"] += size
        if now.partition:
            count["cut"] += 1
            return ()
        if now.rate:
            start = max(at, self.free_at)
            if (start - at) * now.rate / 8 + size > now.queue_bytes():
                count["dropped"] += 1
                return ()
            at = self.free_at = start + size * 8 / now.rate
        if self.is_lost():
            count["lost"] += 1
            return ()
        found = []
        twice = now.duplicate and self.random.random() < now.duplicate
        for _ in range(2 if twice else 1):
            arrives = at + now.delay
            if now.jitter:
                arrives += self.random.uniform(-now.jitter, now.jitter)
            arrives = max(arrives, at)
            if not now.reorder:
                arrives = max(arrives, self.last)
            elif arrives < self.last:
                count["overtook"] += 1
            self.last = max(self.last, arrives)
            found.append(arrives)
        count["duplicated"] += len(found) - 1
        count["delivered"] += len(found)
        count["delivered_bytes"] += size * len(found)
        return found


# --- the process between the two sides ---

def enter(namespace):
    checked(libc.setns(namespace, CLONE_NEWNET))


def setting(name, value):
    try:
        with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True


def side(address, congestion):
    """A namespace of its own, and the TAP device in it. The caller ends up inside."""
    checked(libc.unshare(CLONE_NEWNET))
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    # IPv6 would speak by itself, and what TCP remembers of an earlier connection would make the runs unequal.
    setting("ipv6/conf/all/disable_ipv6", "1")
    setting("ipv4/tcp_no_metrics_save", "1")
    control = next((name for name in congestion.split(",") if setting("ipv4/tcp_congestion_control", name)), None)
    if control is None:
        raise SystemExit(f"none of {congestion} controls congestion here")
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # Without a header of virtio the kernel cuts segments and sums them itself: what comes is what a cable would carry.
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TAP | IFF_NO_PI))
    for command in (f"link set {DEVICE} up", "link set lo up", f"addr add {address}/24 dev {DEVICE}"):
        subprocess.run(["ip", *command.split()], check=True)
    return namespace, tap, control


class Wire:
    def __init__(self, seed, congestion):
        self.ways = {"ab": Way(f"{seed} ab"), "ba": Way(f"{seed} ba")}
        self.a, self.tap_a, self.control = side(ADDRESS["a"], congestion)
        self.b, self.tap_b, _ = side(ADDRESS["b"], congestion)
        self.due, self.number = [], 0
        self.punctual, self.late = 0, 0  # frames that were given when the model said, within 5 ms, and others

    def command(self, line):
        words = line.split()
        if words == ["stats"]:
            late = self.late / max(1, self.punctual + self.late)
            return json.dumps({name: way.count for name, way in self.ways.items()} | {"late": late})
        try:
            changes = {key: float(value) for key, value in (word.split("=") for word in words[1:])}
            for name in ("ab", "ba") if words[0] == "both" else (words[0],):
                way = self.ways[name]
                way.settings = dataclasses.replace(way.settings, **changes)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            return f"no: {error!r}"
        return "ok"

    def take(self, tap, way, other):
        for _ in range(BATCH):
            try:
                frame = os.read(tap, LARGEST_FRAME)
            except BlockingIOError:
                return
            for arrives in way.times(time.monotonic(), len(frame)):
                self.number += 1
                heapq.heappush(self.due, (arrives, self.number, other, way, frame))

    def give(self):
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            arrives, _, tap, way, frame = heapq.heappop(self.due)
            if way.settings.partition:
                way.count["cut"] += 1
                continue
            if now - arrives <= 0.005:
                self.punctual += 1
            else:
                self.late += 1
            try:
                os.write(tap, frame)
            except OSError:  # the device is down for a moment: a frame is lost
                way.count["refused"] += 1

    def run(self):
        control, pending = sys.stdin.fileno(), b""
        while True:
            wait = max(0, self.due[0][0] - time.monotonic()) if self.due else None
            ready = select.select((self.tap_a, self.tap_b, control), (), (), wait)[0]
            if self.tap_a in ready:
                self.take(self.tap_a, self.ways["ab"], self.tap_b)
            if self.tap_b in ready:
                self.take(self.tap_b, self.ways["ba"], self.tap_a)
            self.give()
            if control in ready:
                data = os.read(control, 4096)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    print(self.command(line.decode()), flush=True)


# --- as a library: a link in a process of its own, so that nobody's work delays a frame ---

class Link:
    def __init__(self, seed=1, congestion=CONGESTION):
        self.process = subprocess.Popen([sys.executable, __file__, str(seed), congestion], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)
        ready = self.process.stdout.readline().split()
        if len(ready) != 4:
            raise SystemExit("the link did not start")
        self.spaces = dict(zip("ab", (os.open(path, os.O_RDONLY) for path in ready[1:3])))
        self.control = ready[3]
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        answer = self.process.stdout.readline().strip()
        if answer.startswith("no:") or not answer:
            raise ValueError(f"{line}: {answer}")
        return answer

    def set(self, which="both", **settings):
        """Sets these, and all others to nothing."""
        complete = dataclasses.asdict(Settings()) | settings
        self.say(" ".join([which, *(f"{key}={float(value)!r}" for key, value in complete.items())]))

    def change(self, which="both", **settings):
        self.say(" ".join([which, *(f"{key}={float(value)!r}" for key, value in settings.items())]))

    def stats(self):
        return json.loads(self.say("stats"))

    def popen(self, where, command, **options):
        """A process inside, which ends with this one."""
        space = self.spaces[where]

        def inside():
            checked(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
            enter(space)

        return subprocess.Popen(command, preexec_fn=inside, **options)

    def run(self, where, command, **options):
        with self.popen(where, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
            out = process.communicate()[0]
        return process.returncode, out

    def socket(self, where):
        """A socket belongs to where it was made, not to who uses it."""
        enter(self.spaces[where])
        try:
            return socket.socket()
        finally:
            enter(self.home)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# --- how much it carries ---

def pour(link, seconds):
    """Megabits a second of one TCP connection from a to b."""
    listener, sender = link.socket("a"), link.socket("b")
    listener.bind((ADDRESS["a"], 0))
    listener.listen()
    sender.connect(listener.getsockname())
    source, until = listener.accept()[0], time.monotonic() + seconds

    def send():
        block = bytes(1 << 16)
        while time.monotonic() < until:
            source.sendall(block)
        source.close()

    thread = threading.Thread(target=send)
    started, received = time.monotonic(), 0
    thread.start()
    while data := sender.recv(1 << 18):
        received += len(data)
    took = time.monotonic() - started
    thread.join()
    listener.close()
    sender.close()
    return received * 8 / took / 1e6


def same_decisions():
    """Two ways of one seed decide alike, and a third does not."""
    settings = Settings(rate=10e6, delay=0.02, jitter=0.015, loss=0.03, burst=4, duplicate=0.05)
    ways = [Way(seed) for seed in ("1", "1", "2")]
    for way in ways:
        way.settings = settings
    fates = [[tuple(way.times(frame * 0.001, 1514)) for frame in range(20_000)] for way in ways]
    lost = ways[0].count["lost"] / (ways[0].count["frames"] - ways[0].count["dropped"])
    return fates[0] == fates[1] and fates[0] != fates[2] and abs(lost - 0.03) < 0.01


def measure(seconds=4):
    """Markdown, and whether the link is good enough to judge others by."""
    link = Link()
    free = pour(link, seconds)
    rows, good = [], same_decisions()
    for rate, delay in ((50, 0.003), (50, 0.02), (10, 0.05)):
        link.set(rate=rate * 1e6, delay=delay)
        # What TCP may carry of a frame of 1,514 bytes.
        share = pour(link, seconds) / (rate * 1448 / 1514)
        good &= share > 0.9
        rows.append(f"| {rate} Mbit/s, {delay * 1000:.0f} ms each way | {share:.0%} |")
    late = link.stats()["late"]
    link.close()
    return (f"Without a model it carries {free:.0f} Mbit/s of TCP. What one connection reaches of what a rate allows:\n\n"
            "| Link | Reached |\n|---|---|\n" + "\n".join(rows) +
            f"\n\n{1 - late:.1%} of the frames came within 5 ms of when the model said. The same seed decides the same: "
            + ("yes.\n" if same_decisions() else "NO.\n")), good and free >= 50


def main():
    if sys.argv[1:] == ["--measure"]:
        text, good = measure()
        print(text)
        sys.exit(0 if good else 1)
    seed, congestion = (sys.argv[1:] + ["1", CONGESTION][len(sys.argv) - 1:])[:2]
    if os.geteuid() != 0:
        sys.exit("a link needs root, for namespaces and TAP devices")
    wire = Wire(seed, congestion)
    me = os.getpid()
    print("ready", f"/proc/{me}/fd/{wire.a}", f"/proc/{me}/fd/{wire.b}", wire.control, flush=True)
    wire.run()


if __name__ == "__main__":
    main()
