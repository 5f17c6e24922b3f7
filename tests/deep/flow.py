"""What others notice of one slow reader, one slow owner, one hostile device.

An honest reader takes a file over a link in runs of one group, each of which its owner has to send, on a connection that stays
open. Spans without a disturber and with it take turns, so that what the machine does meanwhile falls on both; the promise is 99th
percentile by 99th percentile. A run takes less than a millisecond, and a few processors hold everybody: what a disturber takes of
them, in a house it would take elsewhere.
"""
from __future__ import annotations

import http.client
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import BINARY, KIB, MIB, Hub, Late, Process, Report, call, folder, interruptible, machine, quantile, table, until, write_random

ROUNDS, SPAN_S = int(os.environ.get("LANYARD_FLOW_ROUNDS", "15")), 4.0
GROUP, HONEST_BYTES, OTHER_BYTES = 256 * KIB, 256 * MIB, 512 * MIB
SLOW_RATE = 32 * KIB
# A disturber has been at it for so long: what it may do at once is spent.
SETTLED_S = 3.0
MOST = 1.10


def honest(port, path, orders, answers):
    """For each order, seconds, the durations of the runs that were made in them. Runs go round the file, so that the relay has to
    ask for each."""
    groups, at = HONEST_BYTES // GROUP, 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while (seconds := orders.get()) is not None:
        took, end = [], time.monotonic() + seconds
        # The relay does not keep one open that says nothing for long.
        connection.close()
        while time.monotonic() < end:
            first = at % groups * GROUP
            at += 1
            started = time.perf_counter()
            connection.request("GET", path, headers={"Range": f"bytes={first}-{first + GROUP - 1}"})
            answer = connection.getresponse()
            length = len(answer.read())
            took.append(time.perf_counter() - started)
            if answer.status != 206 or length != GROUP:
                raise AssertionError(f"{answer.status}, {length} bytes")
            # A reader, not a flood.
            time.sleep(0.001)
        answers.put(took)


class Scene:
    """A hub, an owner, a slow one, and who gets and links."""

    def __init__(self, base):
        self.base, self.logs, rng = base, base / "logs", random.Random(1)
        self.logs.mkdir(parents=True)
        self.hub = Hub(base, self.logs, halves=True, master_args=["--admit", "everyone"]).start()
        write_random(base / "owner-files" / "honest.bin", HONEST_BYTES, rng)
        write_random(base / "owner-files" / "other.bin", OTHER_BYTES, rng)
        write_random(base / "slow-files" / "slow.bin", 64 * MIB, rng)
        for name in ("Owner", "Slow", "Linker", "Getter"):
            if call(base / name, "join", self.hub.url, "--name", name)[0] != 0:
                raise Late(f"{name} could not join")
        for name, files, options in (("Owner", "owner-files", []), ("Slow", "slow-files", ["--limit-up", "64K"])):
            Process(name, base / name, ["share", base / files, *options], self.logs).start().event("shared")
        self.links = {leaf: self.link(f"owner-files/{leaf}") for leaf in ("honest.bin", "other.bin")}

    def link(self, path):
        code, lines, said = call(self.base / "Linker", "link", path)
        if code != 0:
            raise Late(f"link ended with {code}: {said}")
        found = lines[-1] if isinstance(lines[-1], str) else lines[-1]["url"]
        return "/" + found.split("/", 3)[3]


class SlowReader:
    """Of the same owner, a file as large as the relay's budget many times."""

    def __init__(self, scene):
        self.over = threading.Event()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
        self.socket.connect(("127.0.0.1", scene.hub.port))
        self.socket.sendall(f"GET {scene.links['other.bin']} HTTP/1.1\r\nHost: 127.0.0.1:{scene.hub.port}\r\n\r\n".encode())
        self.socket.recv(4 * KIB)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while not self.over.wait(4 * KIB / SLOW_RATE) and self.socket.recv(4 * KIB):
            pass

    def end(self):
        self.over.set()
        self.thread.join()
        self.socket.close()


class SlowOwner:
    """A file of an owner that sends 64 KiB a second is fetched."""

    def __init__(self, scene):
        self.out = scene.base / "came"
        self.get = Process("get", scene.base / "Getter", ["get", "slow-files/slow.bin", "-o", self.out], scene.logs).start()
        until("bytes of the slow owner come", lambda: any(self.out.glob("**/*.lanyard-have")) or any(self.out.glob("**/*.lanyard-part")))

    def end(self):
        self.get.stop()


class Hostile:
    """tests/deep/hostile.rs"""

    def __init__(self, scene):
        program = Path(BINARY).parent / "examples" / "hostile"
        self.process = subprocess.Popen(["nice", str(program), str(scene.hub.port)], stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise Late("the hostile device was not let in")

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


DISTURBERS = {"a reader of 32 KiB/s": SlowReader, "an owner of 64 KiB/s": SlowOwner, "a hostile device": Hostile}


def measure(scene, span, disturber):
    """Rounds of two spans; which is first takes turns."""
    rounds = []
    for number in range(ROUNDS):
        found = {}
        for which in ("without", "with")[::1 if number % 2 else -1]:
            one = disturber(scene) if which == "with" else None
            try:
                time.sleep(SETTLED_S)
                found[which] = span()
            finally:
                if one:
                    one.end()
        rounds.append(found)
    return rounds


def main():
    interruptible()
    base = folder("flow")
    scene = Scene(base / "hub")
    orders, answers = multiprocessing.Queue(), multiprocessing.Queue()
    reader = multiprocessing.Process(target=honest, args=(scene.hub.port, scene.links["honest.bin"], orders, answers), daemon=True)
    reader.start()

    def span():
        orders.put(SPAN_S)
        return until("the honest reader has read", lambda: None if answers.empty() else answers.get(), SPAN_S + 60)

    report = Report("flow", "What others notice", "The real binary, built with the profile `proof`, relay and master as two processes, an owner, and an honest reader of "
                    f"256 KiB at a time over a link, all on {machine()}. Spans of {SPAN_S:.0f} s took turns, {ROUNDS} without a disturber and {ROUNDS} with it; it began "
                    f"{SETTLED_S:.0f} s before. Made by `tests/deep/flow`.")
    span()
    rows = []
    for name, disturber in DISTURBERS.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        rounds = measure(scene, span, disturber)
        tails = {which: [quantile(one[which], 0.99) * 1000 for one in rounds] for which in ("without", "with")}
        middle = [statistics.median(statistics.median(one[which]) for one in rounds) * 1000 for which in tails]
        ratios = [after / before for before, after in zip(tails["without"], tails["with"])]
        ratio = statistics.median(ratios)
        in_words = lambda all: f"{statistics.median(all):.2f} ({min(all):.2f}–{max(all):.2f})"
        rows.append([name, sum(len(span) for one in rounds for span in one.values()), ", ".join(f"{value:.2f}" for value in middle),
                     *(in_words(found) for found in tails.values()), in_words(ratios)])
        report.promise(f"beside {name} the others' 99th percentile stays within 10 %", ratio <= MOST, f"{ratio:.2f} times that without it, the median of {ROUNDS} rounds")
    report.say("Milliseconds a run; in brackets the least and the most of the spans.\n\n"
               + table(["Beside", "Runs", "Medians", "99 % without", "99 % with", "With / without"], rows))
    orders.put(None)
    report.end()


if __name__ == "__main__":
    main()
