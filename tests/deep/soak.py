"""Mixed load for long, and whether what a hub holds grows with time.

Workers fetch, read links at different paces and in ranges, come and go, share and withdraw; one reader is slow all the time.
Every two seconds memory and descriptors of relay, master and owner are noted. After a warm-up of a tenth, a line through the
notes tells how fast they grow.
"""
from __future__ import annotations

import hashlib
import math
import os
import random
import socket
import subprocess
import threading
import time
from collections import Counter

from harness import (KIB, MIB, Hub, Late, Process, Report, call, descriptors, folder, interruptible, machine, rss, seeded, sha256, table, until,
                     write_random)

SECONDS = float(os.environ.get("LANYARD_SOAK_SECONDS", "3600"))
EVERY = 2.0
WARM_UP = 0.1
# Notes that follow each other are alike, so that the line is drawn through means of so many spans.
SPANS = 30
# What may come in a whole run, however long: memory that an allocator takes for a peak that is rare. What grows with every
# transfer or session passes that within an hour, even at some hundred bytes each.
MEMORY_A_RUN, DESCRIPTORS_A_RUN = 1 * MIB, 1
# Above what the relay demands of a reader, 8 KiB/s.
SLOW_RATE = 32 * KIB
FILES, SMALLEST, LARGEST = 24, 64 * KIB, 16 * MIB
PACES = (None, "4M", "1M")


class Load:
    def __init__(self, base, rng):
        self.base, self.rng, self.logs = base, rng, base / "logs"
        self.logs.mkdir()
        self.over, self.began = threading.Event(), time.monotonic()
        self.done, self.wrong, self.changed, self.bytes, self.lock = Counter(), [], 0, 0, threading.Lock()
        self.hub = Hub(base, self.logs, halves=True).start()
        self.files = {}
        for number in range(FILES):
            size = int(math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))))
            self.files[f"{number:02}.bin"] = (size, write_random(base / "shared" / f"{number:02}.bin", size, rng))
        self.hub.admit("Owner", base / "owner", self.logs)
        self.owner = Process("owner", base / "owner", ["share", base / "shared"], self.logs).start()
        self.owner.event("shared")
        for name in ("first", "second", "linker", "comer", "sharer"):
            self.hub.admit(name, base / name, self.logs)
        self.links = {leaf: self.link(leaf) for leaf in self.files}
        self.watched = {"relay": self.hub.relay, "master": self.hub.master, "owner": self.owner}

    def same(self, what, is_same):
        if not is_same:
            with self.lock:
                self.changed += 1
            raise AssertionError(f"{what}: the bytes are others")

    def link(self, leaf):
        code, lines, said = call(self.base / "linker", "link", f"shared/{leaf}")
        if code != 0:
            raise Late(f"link ended with {code}: {said}")
        found = lines[-1] if isinstance(lines[-1], str) else lines[-1]["url"]
        return "/" + found.split("/", 3)[3]

    # ------------------------------------------------------------ workers: one step each
    def some_file(self, rng):
        leaf = rng.choice(list(self.files))
        return leaf, *self.files[leaf]

    def get(self, name):
        def step(rng, number):
            leaf, size, digest = self.some_file(rng)
            out = self.base / f"out-{name}"
            pace = rng.choice(PACES[:2])
            code, _, said = call(self.base / name, "get", f"shared/{leaf}", "-o", out, *(["--limit-down", pace] if pace else []), seconds=300)
            path = out / leaf
            if code != 0:
                raise AssertionError(f"get {leaf} ended with {code}: {said}")
            self.same(f"get {leaf}", sha256(path) == digest)
            path.unlink()
            self.over.wait(rng.uniform(0, 0.5))
            return size

        return step

    def read(self, rng, number):
        leaf, size, digest = self.some_file(rng)
        pace = rng.choice(PACES)
        command = ["curl", "-sS", "--fail", "--max-time", "300", *(["--limit-rate", pace] if pace else []), f"http://127.0.0.1:{self.hub.port}{self.links[leaf]}"]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        found, said = hashlib.file_digest(reader.stdout, "sha256").hexdigest(), reader.stderr.read().decode()
        if reader.wait() != 0:
            raise AssertionError(f"curl of {leaf} at {pace} ended with {reader.returncode}: {said}")
        self.same(f"link of {leaf}", found == digest)
        return size

    def part(self, rng, number):
        leaf, size, _ = self.some_file(rng)
        first = rng.randrange(size)
        last = min(size - 1, first + rng.randrange(1, 4 * MIB))
        done = subprocess.run(["curl", "-sS", "--fail", "--max-time", "300", "-r", f"{first}-{last}", f"http://127.0.0.1:{self.hub.port}{self.links[leaf]}"],
                              capture_output=True, check=False)
        with open(self.base / "shared" / leaf, "rb") as file:
            file.seek(first)
            right = file.read(last - first + 1)
        if done.returncode != 0:
            raise AssertionError(f"range {first}-{last} of {leaf} ended with {done.returncode}: {done.stderr.decode()}")
        self.same(f"range of {leaf}", done.stdout == right)
        # Mixed, not as fast as it goes: that is what the benchmarks are for.
        self.over.wait(rng.uniform(0, 0.3))
        return last - first + 1

    def come_and_go(self, rng, number):
        code, lines, said = call(self.base / "comer", "ls")
        if code != 0 or len(lines[-1]) < FILES:
            raise AssertionError(f"ls ended with {code}: {said}")
        # Somebody new comes, looks, and is turned away and forgotten, so that the roster does not grow.
        if number % 20 == 0:
            data = self.base / f"guest-{number}"
            public_id = self.hub.admit(f"guest-{number}", data, self.logs)
            for word in ("refuse", "forget"):
                code, _, said = call(self.hub.data, word, public_id)
                if code != 0:
                    raise AssertionError(f"{word} ended with {code}: {said}")
        self.over.wait(rng.uniform(0.2, 1.5))
        return 0

    def share_and_withdraw(self, rng, number):
        place = self.base / "passing"
        write_random(place / "passing.bin", rng.randrange(1, 64 * KIB), rng)
        share = Process("passing", self.base / "sharer", ["share", place], self.logs).start()
        share.event("shared")
        self.over.wait(rng.uniform(1, 4))
        share.stop()
        self.over.wait(rng.uniform(1, 6))
        return 0

    def slow(self, rng, number):
        """A reader at a walking pace: a file whole, or as far as it comes before the end."""
        leaf, size, digest = max(((leaf, *one) for leaf, one in self.files.items()), key=lambda one: one[1])
        link, found, got = socket.socket(), hashlib.sha256(), 0
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
        link.settimeout(60)
        link.connect(("127.0.0.1", self.hub.port))
        link.sendall(f"GET {self.links[leaf]} HTTP/1.1\r\nHost: 127.0.0.1:{self.hub.port}\r\nConnection: close\r\n\r\n".encode())
        stream = link.makefile("rb", buffering=4096)
        if b" 200 " not in stream.readline():
            raise AssertionError("the slow reader got no file")
        while stream.readline() not in (b"\r\n", b""):
            pass
        while not self.over.is_set() and (block := stream.read(4096)):
            found.update(block)
            got += len(block)
            self.over.wait(4096 / SLOW_RATE)
        stream.close()
        link.close()
        if not self.over.is_set():
            if got != size:
                raise AssertionError(f"the slow reader got {got} of {size} bytes")
            self.same("the slow reader", found.hexdigest() == digest)
        return got

    # ------------------------------------------------------------ all together
    def worker(self, name, step, seed):
        rng, number = random.Random(seed), 0
        while not self.over.is_set():
            try:
                count = step(rng, number)
                with self.lock:
                    self.done[name] += 1
                    self.bytes += count
            except (AssertionError, Late, OSError, subprocess.SubprocessError, IndexError, KeyError) as trouble:
                with self.lock:
                    self.wrong.append(f"{name}, after {time.monotonic() - self.began:.0f} s: {trouble}".replace(str(self.base), "…").strip())
                self.over.wait(1)
            number += 1

    def run(self):
        """Notes of (seconds, memory, descriptors) of each process that is watched."""
        steps = {"get": self.get("first"), "get too": self.get("second"), "link": self.read, "link too": self.read, "range": self.part,
                 "come and go": self.come_and_go, "share and withdraw": self.share_and_withdraw, "slow reader": self.slow}
        threads = [threading.Thread(target=self.worker, args=(name, step, self.rng.random())) for name, step in steps.items()]
        for thread in threads:
            thread.start()
        notes, began = {name: [] for name in self.watched}, time.monotonic()
        self.began = began
        while time.monotonic() - began < SECONDS:
            for name, process in self.watched.items():
                notes[name].append((time.monotonic() - began, rss(process.pid), descriptors(process.pid)))
            time.sleep(max(0, EVERY - (time.monotonic() - began) % EVERY))
        self.over.set()
        for thread in threads:
            thread.join()
        return notes


def slope(points):
    """Of a line through the means of spans: units a second, and the standard error of that."""
    points = [point for point in points if point[0] >= SECONDS * WARM_UP]
    spans = min(SPANS, len(points) // 2)
    cut = [points[len(points) * at // spans:len(points) * (at + 1) // spans] for at in range(spans)]
    xs, ys = ([sum(point[axis] for point in span) / len(span) for span in cut] for axis in (0, 1))
    middle_x, middle_y = sum(xs) / spans, sum(ys) / spans
    across = sum((x - middle_x) ** 2 for x in xs)
    rise = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys)) / across
    left = sum((y - middle_y - rise * (x - middle_x)) ** 2 for x, y in zip(xs, ys))
    return rise, math.sqrt(left / max(1, spans - 2) / across)


def main():
    interruptible()
    seed, rng = seeded()
    base = folder("soak")
    load = Load(base, rng)
    at_rest = {name: descriptors(process.pid) for name, process in load.watched.items()}
    notes = load.run()
    report = Report("soak", "Soak", f"The real binary, built with the profile `proof`, on {machine()}. Made by `tests/deep/soak`, seed {seed}, in "
                    f"{SECONDS / 60:.0f} minutes (`LANYARD_SOAK_SECONDS={SECONDS:.0f}`{'' if SECONDS >= 3600 else '; the full length is an hour'}).")
    report.promise("nothing fails", not load.wrong, f"{len(load.wrong)} of {load.done.total() + len(load.wrong)} steps went wrong")
    report.promise("no byte is another", not load.changed, f"SHA-256 or bytes compared of {load.bytes / MIB:.0f} MiB, {load.changed} differed")
    hours, rows = SECONDS / 3600, []
    for name, points in notes.items():
        for what, axis, unit, bound, word in (("memory", 1, MIB, MEMORY_A_RUN, "MiB"), ("descriptors", 2, 1, DESCRIPTORS_A_RUN, "descriptors")):
            rise, error = slope([(point[0], point[axis]) for point in points])
            rise, error, bound = rise * 3600 / unit, error * 3600 / unit, bound / unit / hours
            values = [point[axis] / unit for point in points if point[0] >= SECONDS * WARM_UP]
            # The line grows for sure only where it does so by two standard errors.
            report.promise(f"{name}: {what} do not grow" if axis == 2 else f"{name}: {what} does not grow", rise - 2 * error <= bound,
                           f"{rise:+.2f} ± {error:.2f} {word} an hour; {bound:.1f} are allowed")
            rows.append([name, what, f"{values[0]:.1f}", f"{max(values):.1f}", f"{values[-1]:.1f}", f"{rise:+.2f}", f"{error:.2f}", f"{bound:.1f}"])

    def rested():
        return all(descriptors(process.pid) <= at_rest[name] + 1 for name, process in load.watched.items())

    try:
        until("all descriptors are given back", rested, 120)
        found, good = ", ".join(f"{name} {descriptors(process.pid)} (before {at_rest[name]})" for name, process in load.watched.items()), True
    except Late:
        found, good = ", ".join(f"{name} {descriptors(process.pid)} (before {at_rest[name]})" for name, process in load.watched.items()), False
    report.promise("at rest, descriptors are as they were", good, found)
    lives = all(process.runs and process.lives == 1 for process in load.watched.values())
    panicked = [path.name for path in load.logs.glob("*.err") if "panicked" in path.read_text(errors="replace")]
    report.promise("no process ended or panicked", lives and not panicked, ", ".join(panicked) or "all run")
    report.say(f"## Growth\n\nNoted every {EVERY:.0f} s, the first tenth left out; a line through the means of {SPANS} spans, for notes that follow each other are alike. "
               f"Allowed is {MEMORY_A_RUN // MIB} MiB, or a descriptor, in a whole run, however long it is: an allocator takes that much for a peak that is rare. A promise is broken "
               "where the line rises by more than that plus two standard errors.\n\n"
               + table(["Process", "", "first", "most", "last", "an hour", "standard error", "allowed an hour"], rows))
    tenths = [[name, *(f"{sum(mine) / len(mine) / MIB:.1f}" for at in range(10)
                       if (mine := [point[1] for point in points if at <= point[0] / SECONDS * 10 < at + 1]))] for name, points in notes.items()]
    report.say("Memory in MiB, the mean of each tenth of the run:\n\n" + table(["", *(str(at + 1) for at in range(10))], tenths))
    report.say(f"## Load\n\n{FILES} files of 64 KiB to 16 MiB; {load.bytes / MIB:.0f} MiB were read, {load.bytes / MIB / SECONDS:.1f} MiB a second. Paces are none, 4 MiB/s and 1 MiB/s; "
               f"the slow reader takes {SLOW_RATE // KIB} KiB/s.\n\n" + table(["What", "times"], sorted(load.done.items())))
    if load.wrong:
        report.say("## What went wrong\n\n```\n" + "\n".join(load.wrong[:20]) + "\n```\n")
    report.end()


main()
