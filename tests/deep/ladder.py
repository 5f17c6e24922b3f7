"""A hub on one side of a bad link and a device on the other: what arrives, how fast, and what it lives through.

    ladder.py BINARY [NAME…] → Markdown; ends badly if a promise is broken

A NAME takes only what has it in its name. The link is link.py's, one for each part, and several parts run side by side: they
share nothing but the processors. What may be slow is waited for with generous limits; only what is promised has a bound.
"""

import contextlib
import hashlib
import http.client
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

import link as links
from link import ADDRESS, Link

BINARY = sys.argv[1]
ONLY = sys.argv[2:]
PORT, WEB_PORT = 7070, 8080
HUB = f"http://{ADDRESS['a']}:{PORT}"
ROAMED = "10.77.0.3"
PATIENCE = 400  # seconds, for what has no bound of its own
SIDE_BY_SIDE = 6
OUTAGE = 30
REST = 10  # seconds in which nothing moves
# PROTOCOL.md 1.5: a ping after 4 s without a frame, or 5, and 10 s for an answer.
CLOSED_WITHIN = 15 + 1  # seconds; the relay is asked, and a log read, a few times a second
LEAST_RATIO = 0.8
# Bytes on the link for each byte of the file: heads and what is sent again because it was lost, but no run fetched anew.
MOST_CARRIED = 1.4
# What counts as bytes that flow again: more than what a TCP connection tries by itself.
FLOWS = 64 * 1024

MBIT, KBIT = 1e6, 1e3
# Delay, jitter and loss are of each direction.
RUNGS = {
    "good Wi-Fi": (dict(rate=50 * MBIT, delay=0.003), 40_000_000),
    "congested Wi-Fi": (dict(rate=10 * MBIT, delay=0.02, jitter=0.015, loss=0.01), 6_000_000),
    "weak LTE": (dict(rate=5 * MBIT, delay=0.06, jitter=0.03, loss=0.02, burst=6), 3_000_000),
    "3G": (dict(rate=1.5 * MBIT, delay=0.12, jitter=0.04, loss=0.01), 1_500_000),
    "satellite": (dict(rate=10 * MBIT, delay=0.3), 6_000_000),
    "edge": (dict(rate=250 * KBIT, delay=0.3, loss=0.02), 400_000),
    # Larger than all that a device asks for at once.
    "edge, a larger file": (dict(rate=250 * KBIT, delay=0.3, loss=0.02), 4_000_000),
    "5 % loss and 200 ms": (dict(rate=10 * MBIT, delay=0.1, loss=0.05), 1_000_000),
    "5 % twice, and out of order": (dict(rate=10 * MBIT, delay=0.02, jitter=0.01, duplicate=0.05, reorder=1), 6_000_000),
}
BREAKING = dict(rate=5 * MBIT, delay=0.02), 8_000_000
# Link, what controls congestion, bytes, links, rounds on each, and the least share of curl's goodput if it is promised. With
# reno one lost frame more or less is much: many rounds.
CONTESTS = (("5 % loss and 200 ms", links.CONGESTION, 1_500_000, 5, 2, LEAST_RATIO),
            ("5 % loss and 200 ms", "bbr", 8_000_000, 2, 4, LEAST_RATIO),
            ("satellite", "bbr", 8_000_000, 1, 3, None))
WORDS = {"asks": "asks", "owns": "owns the file"}


class Broken(Exception):
    pass


def until(condition, what, patience=PATIENCE, pause=0.05):
    """Seconds until it holds, and what it was."""
    started = time.monotonic()
    while True:
        found = condition()
        took = time.monotonic() - started
        if found:
            return took, found
        if took > patience:
            raise Broken(f"{what}: not within {patience} s")
        time.sleep(pause)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Scene:
    """A hub in a, a device of its own on each side, all joined over the link as it is."""

    def __init__(self, directory, seed, settings, control=links.CONGESTION):
        self.directory = directory
        self.link = Link(seed, control)
        self.environment = {"LANYARD_LOG": "debug"} | os.environ
        self.link.set(**settings)
        self.processes, self.logs = [], []

    def file(self, name, size):
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(os.urandom(size))
        return path

    def log_of(self, name):
        return os.path.join(self.directory, f"{name}.log")

    def start(self, where, name, command):
        self.logs.append(self.log_of(name))
        with open(self.logs[-1], "wb") as log:
            process = self.link.popen(where, command, stdout=log, stderr=log, env=self.environment)
        self.processes.append(process)
        return process

    def lanyard(self, where, *arguments):
        """What it prints on standard output."""
        with self.link.popen(where, [BINARY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=self.environment) as process:
            out, complaints = process.communicate()
        if process.returncode:
            raise Broken(f"lanyard {' '.join(arguments)}: {process.returncode}, {complaints[-400:]}")
        return out

    def data(self, of):
        return os.path.join(self.directory, of)

    def serve(self, *paths):
        self.start("a", "hub", [BINARY, "serve", "--listen", f"{ADDRESS['a']}:{PORT}", "--admit", "everyone", "--headless",
                                "--data", self.data("hub"), *paths])
        until(lambda: self.metric("hub_ready"), "the hub is ready")

    def join(self, *options):
        """Nobody can come in any more afterwards: who would have to ask again is not let in."""
        self.lanyard("a", "join", HUB, "--name", "near", "--data", self.data("near"), *options)
        self.lanyard("b", "join", HUB, "--name", "far", "--data", self.data("far"), *options)
        self.lanyard("a", "door", "closed", "--data", self.data("hub"))
        self.decided = self.decisions()

    def decisions(self):
        return sum("knocked" in line or "let in" in line
                   for line in self.lanyard("a", "audit", "--data", self.data("hub")).splitlines())

    def metric(self, name):
        connection = http.client.HTTPConnection(ADDRESS["a"], PORT, timeout=5)
        connection.sock = self.link.socket("a")
        try:
            connection.sock.connect((ADDRESS["a"], PORT))
            with open(os.path.join(self.data("hub"), "metrics.token")) as file:
                token = file.read()
            connection.request("GET", "/metrics", headers={"Connection": "close", "Authorization": f"Bearer {token}"})
            page = connection.getresponse().read().decode()
        except OSError:
            return None
        finally:
            connection.close()
        return next((int(line.split()[-1]) for line in page.splitlines() if line.startswith(f"lanyard_{name} ")), None)

    def listed(self, name):
        """In the hub's own list."""
        until(lambda: name in self.lanyard("a", "files", "--data", self.data("hub")), f"{name} is listed", pause=0.2)

    def carried(self, far):
        """Bytes that have come over the link in the direction of the file."""
        return self.link.stats()["ab" if far == "asks" else "ba"].get("delivered_bytes", 0)

    def get(self, far, name, *options):
        where, data = ("b", "far") if far == "asks" else ("a", "near")
        command = [BINARY, "get", name, "--data", self.data(data), "-o", self.data("came"), *options]
        return self.start(where, f"get {name}", command)

    def got(self, process, path):
        """The bytes are there and right; a Broken tells what else."""
        until(lambda: process.poll() is not None, "the get ended", pause=0.02)
        if process.returncode:
            raise Broken(f"the get ended with {process.returncode}")
        if digest(path) != digest(os.path.join(self.data("came"), os.path.basename(path))):
            raise Broken("other bytes came than were shared")

    def say_why(self):
        for log in self.logs:
            with open(log, encoding="utf-8", errors="replace") as file:
                print(f"--- {os.path.basename(log)}", *file.read().splitlines()[-60:], sep="\n", file=sys.stderr)
        print(f"--- link {self.link.stats()}", file=sys.stderr, flush=True)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.link.close()


@contextlib.contextmanager
def scene(directory, *arguments):
    one = Scene(directory, *arguments)
    try:
        yield one
    except BaseException:
        one.say_why()
        raise
    finally:
        one.end()


@contextlib.contextmanager
def shared(directory, seed, settings, size, far):
    """A file that lies on the side of its owner, and is listed."""
    with scene(directory, seed, settings) as one:
        path = one.file("file.bin", size)
        if far == "asks":
            one.serve(path)
            one.join()
        else:
            one.serve()
            one.join()
            one.start("b", "share", [BINARY, "share", path, "--data", one.data("far")])
        one.listed("file.bin")
        yield one, path


# --- the parts: each gives back what its tables need ---

def rung(directory, seed, name, far):
    settings, size = RUNGS[name]
    with shared(directory, seed, settings, size, far) as (one, path):
        before, started = one.carried(far), time.monotonic()
        one.got(one.get(far, "file.bin"), path)
        took, carried = time.monotonic() - started, one.carried(far) - before
        return {"seconds": took, "carried": carried / size, "failed_runs": one.metric("failed_runs_total"),
                "late": one.link.stats()["late"]}


def half_open(one, far):
    """Everything is dropped and nobody is told, until both ends have noticed."""
    sessions, log = one.metric("sessions_approved"), one.log_of("get file.bin" if far == "asks" else "share")
    started, noticed = time.monotonic(), {}
    one.link.change(partition=1)

    def look():
        # Its own log, for nobody can ask a device that is cut off.
        with open(log, encoding="utf-8", errors="replace") as file:
            if "the link broke" in file.read():
                noticed.setdefault("device", time.monotonic() - started)
        if one.metric("sessions_approved") in range(sessions):
            noticed.setdefault("relay", time.monotonic() - started)
        return len(noticed) == 2

    until(look, "both ends have noticed", patience=60)
    one.link.change(partition=0)
    return {"noticed": noticed}


def at_rest(directory, seed):
    """The same while nothing moves: a device that shares, and that nobody asks for anything."""
    settings, size = BREAKING
    with shared(directory, seed, settings, size, "owns") as (one, _):
        sessions = one.metric("sessions_approved")
        time.sleep(REST)
        found = half_open(one, "owns")
        whole = time.monotonic()
        until(lambda: one.metric("sessions_approved") == sessions, "it is back")
        return found | {"back": time.monotonic() - whole, "approvals": one.decisions() - one.decided, "late": one.link.stats()["late"]}


def outage(one, far):
    one.link.change(partition=1)
    time.sleep(OUTAGE)
    one.link.change(partition=0)
    return {}


def roam(one, far):
    for words in (f"del {ADDRESS['b']}/24", f"add {ROAMED}/24"):
        code, out = one.link.run("b", ["ip", "addr", *words.split(), "dev", links.DEVICE])
        if code:
            raise Broken(out)
    return {}


BREAKS = {"half-open": half_open, f"{OUTAGE} s of nothing": outage, "another address": roam}


def broken_off(directory, seed, name, far):
    settings, size = BREAKING
    with shared(directory, seed, settings, size, far) as (one, path):
        before, started = one.carried(far), time.monotonic()
        process = one.get(far, "file.bin")
        until(lambda: process.poll() is not None or one.carried(far) - before > size / 4, "a quarter has come")
        if process.poll() is not None:
            raise Broken(f"the get ended with {process.returncode} before anything happened")
        found = BREAKS[name](one, far)
        whole, carried = time.monotonic(), one.carried(far)
        found["flows"] = until(lambda: one.carried(far) - carried > FLOWS, "bytes flow again")[0]
        one.got(process, path)
        return found | {"seconds": time.monotonic() - started, "after": time.monotonic() - whole,
                        "approvals": one.decisions() - one.decided, "late": one.link.stats()["late"]}


def beside_curl(directory, seed, name, control, size, rounds):
    """The same file by both in turn, over plain http; a new one each round, because what lies here is not fetched again."""
    with scene(directory, seed, RUNGS[name][0], control) as one:
        paths = [one.file(f"{number}.bin", size) for number in range(rounds)]
        one.serve(*paths)
        one.join("--plain")
        one.start("a", "web", [sys.executable, "-m", "http.server", "--bind", ADDRESS["a"], "--directory", directory,
                               str(WEB_PORT)])
        took = {"lanyard": [], "curl": []}
        for number, path in enumerate(paths):
            name = os.path.basename(path)
            for who in sorted(took, reverse=number % 2 == 0):
                started = time.monotonic()
                if who == "lanyard":
                    one.got(one.get("asks", name, "--plain"), path)
                else:
                    copy = os.path.join(directory, "copy")
                    code, out = one.link.run("b", ["curl", "-sS", "--retry", "5", "--retry-connrefused", "-o", copy,
                                                   f"http://{ADDRESS['a']}:{WEB_PORT}/{name}"])
                    if code or digest(copy) != digest(path):
                        raise Broken(f"curl: {code} {out}")
                took[who].append(time.monotonic() - started)
        return {"took": took, "control": one.link.control, "late": one.link.stats()["late"]}


# --- all of them, some at a time ---

def parts():
    """By name, the longest first: function, arguments, and whether it wants the machine for itself."""
    found = {}
    allowed = open("/proc/sys/net/ipv4/tcp_allowed_congestion_control", encoding="ascii").read().split()
    for name, alone in (("good Wi-Fi", True), ("edge, a larger file", False)):
        for far in WORDS:
            found[f"rung {name}: {far}"] = (rung, (name, far), alone)
    for name, control, size, count, rounds, _ in CONTESTS:
        if control == links.CONGESTION or control in allowed:
            for number in range(count):
                found[f"curl {name}, {control}: {number}"] = (beside_curl, (name, control, size, rounds), False)
    found["rest half-open"] = (at_rest, (), False)
    for name in BREAKS:
        for far in WORDS:
            found[f"break {name}: {far}"] = (broken_off, (name, far), False)
    for name in reversed(RUNGS):
        for far in WORDS:
            found.setdefault(f"rung {name}: {far}", (rung, (name, far), False))
    return {name: part for name, part in found.items() if not ONLY or any(word in name for word in ONLY)}


def play(name, part, directory, out):
    links.checked(links.libc.prctl(links.PR_SET_PDEATHSIG, links.SIGKILL, 0, 0, 0))
    seed = zlib.crc32(name.encode())
    directory = os.path.join(directory, str(seed))
    os.mkdir(directory)
    function, arguments, _ = part
    try:
        out.send(function(directory, seed, *arguments))
    except Broken as broken:
        print(f"{name}: {broken}", file=sys.stderr, flush=True)
        out.send({"broken": str(broken)})


def play_all(directory):
    waiting, running, results = list(parts().items()), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < SIDE_BY_SIDE:
                alone = waiting[0][1][2]
                if running and (alone or any(each[2] for each in running.values())):
                    break
                name, part = waiting.pop(0)
                ours, theirs = multiprocessing.Pipe(duplex=False)
                process = multiprocessing.Process(target=play, args=(name, part, directory, theirs))
                process.start()
                theirs.close()
                running[ours] = (name, process, alone, time.monotonic())
            for ours in multiprocessing.connection.wait(running):
                name, process, _, started = running.pop(ours)
                try:
                    results[name] = ours.recv()
                except EOFError:
                    results[name] = {"broken": "it ended without a word"}
                process.join()
                verdict = results[name].get("broken", "done")
                print(f"{name}: {verdict}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    finally:
        for _, process, *_ in running.values():
            process.terminate()
        for _, process, *_ in running.values():
            process.join()
    return results


# --- the report ---

def rate(settings):
    found = settings["rate"]
    return f"{found / MBIT:g} Mbit/s" if found >= MBIT else f"{found / KBIT:g} kbit/s"


def delay(settings):
    jitter = settings.get("jitter", 0) * 1000
    return f"{settings['delay'] * 1000:.0f}" + (f" ± {jitter:.0f}" if jitter else "") + " ms"


def loss(settings):
    found = settings.get("loss", 0)
    return "none" if not found else f"{found:.0%}" + (f" in bursts of {settings['burst']}" if "burst" in settings else "")


class Report:
    def __init__(self, results):
        self.results, self.passed, self.failed = results, 0, []

    def check(self, name, good):
        if good:
            self.passed += 1
        else:
            self.failed.append(name)
        return good

    def bound(self, name, good, text):
        """What was measured, and loud if it should not be."""
        return text if self.check(name, good) else f"**{text}: NO**"

    def head(self, title, text, *columns):
        self.columns = len(columns)
        print(f"\n## {title}\n\n{text}\n")
        self.row(*columns)
        print("|" + "---|" * self.columns)

    def row(self, *cells):
        print("| " + " | ".join([*map(str, cells), *[""] * (self.columns - len(cells))]) + " |")

    def both(self, kind, names):
        """The results of these, for either task of the far device."""
        for name in names:
            for far, words in WORDS.items():
                found = self.results.get(f"{kind} {name}: {far}")
                if found is not None:
                    yield name, words, f"{name}, {words}", found

    def ladder(self):
        self.head("The ladder", "Delay and loss are of each direction. The far device asks, or owns the file; the hub and the other one "
                  "are near. Seconds are of the whole\ncommand, from its start; the hash is compared. Runs that broke off are uploads of "
                  "the owner that did not come to their end. On the\nlink are the bytes of all frames in the direction of the file, "
                  f"{MOST_CARRIED} times the file at most.",
                  "Link", "Rate", "Delay", "Loss", "The far device", "Bytes", "Seconds", "Goodput", "Of the rate",
                  "Runs that broke off", "On the link")
        for name, words, which, found in self.both("rung", RUNGS):
            settings, size = RUNGS[name]
            cells = name, rate(settings), delay(settings), loss(settings), words, f"{size:,}"
            if not self.check(which, "broken" not in found):
                self.row(*cells, f"**{found['broken']}**")
                continue
            goodput = size * 8 / found["seconds"]
            twice = self.bound(f"{which}: hardly anything is fetched twice", found["carried"] <= MOST_CARRIED,
                               f"{found['carried']:.2f} times")
            self.row(*cells, f"{found['seconds']:.1f}", f"{goodput / MBIT:.2f} Mbit/s", f"{goodput / settings['rate']:.0%}",
                     found["failed_runs"], twice)

    def beside(self):
        self.head("Beside curl", "`lanyard get --plain` and `curl` from Python's web server, of the same file, in turn: medians of the "
                  "seconds of the whole command.",
                  "Link", "Congestion control", "Bytes", "Rounds", "`lanyard get`", "curl", "Goodput beside curl's", "At least")
        for name, control, size, _, _, least in CONTESTS:
            found = [result for part, result in self.results.items() if part.startswith(f"curl {name}, {control}: ")]
            broken = [result["broken"] for result in found if "broken" in result]
            if broken:
                self.check(f"beside curl, {name}, {control}", False)
                self.row(name, control, f"{size:,}", "", f"**{broken[0]}**")
            elif found:
                took = {who: [each for result in found for each in result["took"][who]] for who in ("lanyard", "curl")}
                ours, theirs = (statistics.median(took[who]) for who in took)
                cells = [f"{statistics.median(each):.1f} s ({min(each):.1f}–{max(each):.1f})" for each in took.values()]
                ratio = f"{theirs / ours:.2f}"
                if least:
                    ratio = self.bound(f"beside curl, {name}, {found[0]['control']}", theirs / ours >= least, ratio)
                self.row(name, found[0]["control"], f"{size:,}", len(took["curl"]), *cells, ratio, least or "")

    def breaks(self):
        settings, size = BREAKING
        self.head("What breaks off", f"{size:,} bytes at {rate(settings)}, {delay(settings)} each way; it happens when a quarter has come. "
                  "Half-open: every frame is dropped and nobody is\ntold, until relay and device have both closed the session, each within "
                  f"{CLOSED_WITHIN} s; the device's clock is its log. Bytes flow again when 64 KiB have come;\nseconds are from when the "
                  "link is whole. After the devices joined the door was closed.",
                  "What", "The far device", "The relay closed it after", "The device after", "Bytes flow again after", "Done after",
                  "Asked to be let in again")
        for name, words, which, found in self.both("break", BREAKS):
            if not self.check(which, "broken" not in found):
                self.row(name, words, f"**{found['broken']}**")
                continue
            self.row(name, words, *self.noticed(which, found), f"{found['flows']:.1f} s", f"{found['after']:.1f} s", self.again(which, found))
        found = self.results.get("rest half-open")
        if found and self.check("half-open at rest", "broken" not in found):
            self.row("half-open", "shares, nobody asks", *self.noticed("half-open at rest", found), "",
                     f"{found['back']:.1f} s (it is back)", self.again("half-open at rest", found))
        elif found:
            self.row("half-open", "shares, nobody asks", f"**{found['broken']}**")

    def noticed(self, which, found):
        sides = found.get("noticed", {})
        return [side in sides and self.bound(f"{which}: closed by the {side} in time", sides[side] <= CLOSED_WITHIN, f"{sides[side]:.1f} s") or ""
                for side in ("relay", "device")]

    def again(self, which, found):
        return self.bound(f"{which}: no new approval", found["approvals"] == 0, found["approvals"] or "no")

    def end(self):
        late = [result["late"] for result in self.results.values() if "late" in result]
        if late:
            print(f"\nOf the frames of each of these {len(late)} links, at least {1 - max(late):.1%} came within 5 ms of when "
                  f"the model said (half of the links: {1 - statistics.median(late):.1%}).")
        for name in self.failed:
            print(f"\nNot kept: {name}.")


def main():
    # So that what is temporary is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    good, text = True, ""
    if not ONLY:
        text, good = links.measure()
    with tempfile.TemporaryDirectory() as directory:
        report = Report(play_all(directory))
    if text:
        print(f"## The link itself\n\n{text}", end="")
        report.check("the link itself", good)
    names = " ".join(report.results)
    for words, table in (("rung", report.ladder), ("curl", report.beside), ("break rest", report.breaks)):
        if any(word in names for word in words.split()):
            table()
    report.end()
    print(f"\n{report.passed} passed, {len(report.failed)} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
