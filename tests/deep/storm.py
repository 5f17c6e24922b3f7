"""A storm of devices: all that belong come at the same moment, as after a cut of power; then so many idle ones.

Clients live in `storm-clients.mjs`, in as many processes as it takes. The door is open only while the devices join; then the
master is started again with the usual one, where nobody comes in without a word of the host.

A school is the same behind one NAT: all its devices share one address, and come back after the whole hub was killed.
"""
from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from harness import KIB, MIB, Hub, Late, Process, Report, descriptors, folder, interruptible, machine, processor_s, quantile, rss, table, until

HERE = Path(__file__).resolve().parent
STILL_S = 20
DEVICES, IDLE = int(os.environ.get("LANYARD_STORM", "1000")), int(os.environ.get("LANYARD_IDLE", "5000"))
SCHOOL, SCHOOL_ADDRESS = int(os.environ.get("LANYARD_SCHOOL", "600")), "127.9.9.9"
# So long the relay has no master after the kill: it knows nobody then, and bounds an address as it bounds strangers.
MASTERLESS_S = 3
# A device waits 15 s at most between two tries; three of these after the master is back.
SCHOOL_BACK_S, SCHOOL_TRIES = 45, 12
ROUNDS, FLOOR_ROUNDS = 10, 5
IN_A_PROCESS = 1250
SEEN_MS, RELAY_RSS, RELAY_A_DEVICE = 250, 150 * MIB, 40 * KIB
PATIENCE_S = 300


class Clients:
    """Some devices in one process."""

    def __init__(self, port, first, count, address=None):
        node = shutil.which("node")
        if not node:
            raise SystemExit("Node is not there")
        self.process = subprocess.Popen([node, str(HERE / "storm-clients.mjs"), str(port), str(first), str(count), *filter(None, [address])], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.answer()

    def tell(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Late("the clients died")
        return json.loads(line)

    def quit(self):
        self.process.kill()
        self.process.wait()


class Swarm:
    """All devices, in several processes."""

    def __init__(self, base, count, halves_name, address=None):
        self.logs = base / f"logs-{halves_name}"
        self.logs.mkdir()
        self.count = count
        self.hub = Hub(base, self.logs, halves=True, master_args=["--admit", "everyone"], name=halves_name).start()
        firsts = range(0, count, IN_A_PROCESS)
        self.clients = [Clients(self.hub.port, 1 + first, min(IN_A_PROCESS, count - first), address) for first in firsts]

    def all(self, words):
        for one in self.clients:
            one.tell(words)
        return [one.answer() for one in self.clients]

    def one(self, words):
        self.clients[0].tell(words)
        return self.clients[0].answer()

    def join(self):
        started = time.monotonic()
        # One process after the other: the hub lets 64 wait.
        for one in self.clients:
            one.tell("join")
            one.answer()
        took = time.monotonic() - started
        # From here on the usual door: whoever had to knock would wait for ever.
        self.hub.master.stop()
        self.hub.master.command = [word for word in self.hub.master.command if word not in ("--admit", "everyone")]
        self.hub.start()
        self.knocks = self.count_knocks()
        return took

    def count_knocks(self):
        code, lines = self.hub.audit()
        if code != 0:
            raise Late(f"audit ended with {code}")
        return sum(line["event"] == "knocked" for line in lines)

    def addition(self, marker):
        self.all(f"watch {marker}")
        at = self.one(f"add {marker}")["at"]
        return at, self.all("seen 30")

    def used(self):
        """Seconds of a processor: relay, master, clients."""
        return [processor_s(self.hub.relay.pid), processor_s(self.hub.master.pid), sum(processor_s(one.process.pid) for one in self.clients)]

    def quit(self):
        for one in self.clients:
            one.quit()
        self.hub.stop()


class Beside:
    """Samples the relay's memory while something else waits."""

    def __init__(self, pid):
        self.pid, self.most, self.over = pid, rss(pid), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(0.02):
            try:
                self.most = max(self.most, rss(self.pid))
            except (OSError, ProcessLookupError):
                return

    def end(self):
        self.over.set()
        self.thread.join()
        return self.most


def total(found):
    """Of all processes: how many are in, when the last was, how often somebody was asked for a knock."""
    return sum(one["in"] for one in found), sum(one["asked"] for one in found), sorted({code for one in found for code in one["codes"]})


def in_words(used):
    return ", ".join(f"{who} {seconds:.1f}" for who, seconds in zip(("relay", "master", "clients"), used))


def storm(base, report):
    swarm = Swarm(base, DEVICES, "hub")
    relay, owner = swarm.hub.relay, base / "owner"
    joining = Process("join-owner", owner, ["join", swarm.hub.url, "--name", "Owner"], swarm.logs).start()
    joining.wait()
    joined = swarm.join()
    (base / "midstorm.bin").write_bytes(b"x" * 1000)
    empty = rss(relay.pid)
    beside = Beside(relay.pid)
    swarm.all("watch midstorm")
    before = swarm.used()
    for one in swarm.clients:
        one.tell("connect")
    # A file is added while they come: some hear of it as a change, some find it in the list.
    until("some are in", lambda: swarm.hub.metrics()["lanyard_sessions_approved"] >= DEVICES / 3, PATIENCE_S, 0.001)
    share = Process("share", owner, ["share", base / "midstorm.bin"], swarm.logs).start()
    came = [one.answer() for one in swarm.clients]
    used = [after - then for after, then in zip(swarm.used(), before)]
    share.event("shared")
    middle = swarm.all("seen 30")
    there, asked, codes = total(came)
    report.promise("all come in at once", there == DEVICES and asked == 0, f"{there} of {DEVICES} are in, {asked} were asked to knock, closed with {codes or 'nothing'}")
    lost, twice = sum(one["lost"] for one in middle), sum(one["twice"] for one in middle)
    report.promise("a file added in the midst of it reaches all, once", lost == twice == 0, f"{lost} lost, {twice} duplicated")
    share.stop()

    late, lost, twice = [], 0, 0
    for number in range(ROUNDS):
        at, found = swarm.addition(f"added-{number}-")
        late += [seen - at for one in found for seen in one["at"]]
        lost, twice = lost + sum(one["lost"] for one in found), twice + sum(one["twice"] for one in found)
    bare = swarm.one(f"floor {FLOOR_ROUNDS}")
    p50, p99 = quantile(late, 0.5), quantile(late, 0.99)
    report.promise(f"{ROUNDS} additions reach all, once", lost == twice == 0, f"{len(late)} of {ROUNDS * DEVICES} read of them, {lost} lost, {twice} duplicated")
    report.promise(f"an addition is seen within {SEEN_MS} ms", p99 < SEEN_MS, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    most = beside.end()
    report.promise(f"the relay takes less than {RELAY_RSS // MIB} MiB", most < RELAY_RSS, f"{most / MIB:.1f} MiB at most, {empty / MIB:.1f} MiB before they came")

    master_dies(swarm, report)
    relay.kill()
    killed = time.time() * 1000
    time.sleep(0.5)
    relay.start().event("ready")
    ready = time.time() * 1000
    until("the master is back", lambda: swarm.hub.metrics().get("lanyard_hub_ready") == 1, PATIENCE_S)
    master_back = time.time() * 1000
    beside = Beside(relay.pid)
    back = swarm.all("back")
    there, asked, codes = total(back)
    last = max(one["last_at"] for one in back)
    at, after = swarm.addition("after-the-kill")
    lost, twice = sum(one["lost"] for one in after), sum(one["twice"] for one in after)
    most_after = beside.end()
    knocks = swarm.count_knocks() - swarm.knocks
    report.promise("the relay is killed: all are back, nobody is asked", there == DEVICES and asked == knocks == 0, f"{there} of {DEVICES}, {knocks} knocks")
    report.promise("after that an addition reaches all, once", lost == twice == 0, f"{lost} lost, {twice} duplicated")
    report.promise(f"the relay takes less than {RELAY_RSS // MIB} MiB then, too", most_after < RELAY_RSS, f"{most_after / MIB:.1f} MiB at most")
    report.say(f"## {DEVICES} devices\n\nAll open their sockets in the same moment; a device is in when it is approved and has read the list to its end. Keys and joins "
               f"({joined:.1f} s, one after the other eight at a time) lie before that.\n\n" + table(
        ["", "p50", "p99", "last"],
        [["from the start of the storm until in", *(f"{max(one[key] for one in came):.0f} ms" for key in ("p50_ms", "p99_ms", "max_ms"))],
         ["from an addition until seen", f"{p50:.1f} ms", f"{p99:.1f} ms", f"{max(late):.1f} ms"],
         ["a bare loop that writes as much to as many", *(f"{bare[key]:.1f} ms" for key in ("p50_ms", "p99_ms", "max_ms"))]])
        + "\nUntil all were in, seconds of a processor: " + in_words(used) + f".\n\nAfter the kill the relay was ready again in {(ready - killed) / 1000:.1f} s (of which it stayed away for 0.5 s), the master in {(master_back - killed) / 1000:.1f} s, "
          f"and all devices in {(last - killed) / 1000:.1f} s, {(last - ready) / 1000:.1f} s after the relay. They try again after random parts of 0.25, 0.5, 1 … s.\n")
    swarm.quit()
    return swarm


def master_dies(swarm, report):
    """R06: who is connected stays so, hears nothing again of what was listed before, and everything of what comes after."""
    ready = lambda value: lambda: swarm.hub.metrics().get("lanyard_hub_ready") == value
    swarm.all("watch added-")
    swarm.hub.master.kill()
    until("the relay has noticed", ready(0), PATIENCE_S)
    swarm.hub.master.start().event("ready")
    until("the master is back", ready(1), PATIENCE_S)
    again = sum(one["mentions"] for one in swarm.all("seen 2"))
    there, asked, codes = total(swarm.all("back"))
    at, after = swarm.addition("after-the-master-")
    lost, twice = sum(one["lost"] for one in after), sum(one["twice"] for one in after)
    report.promise("the master is killed: nobody's line ends, nobody is asked", there == swarm.count and asked == 0 and not codes, f"{there} of {swarm.count}, {asked} were asked to knock, closed with {codes or 'nothing'}")
    report.promise("nothing listed before is told again, what is added then reaches all, once", again == lost == twice == 0, f"{again} told again, {lost} lost, {twice} duplicated")


def school(base, report):
    """All devices behind one address come at once, and again after the whole hub was killed."""
    swarm = Swarm(base, SCHOOL, "school", SCHOOL_ADDRESS)
    relay, master = swarm.hub.relay, swarm.hub.master
    swarm.join()
    came = swarm.all("connect")
    there, asked, codes = total(came)
    report.promise(f"{SCHOOL} behind one address come in at once", there == SCHOOL and asked == 0,
                   f"{there} of {SCHOOL}, {asked} were asked to knock, closed with {codes or 'nothing'}")
    opened = sum(one["opened"] for one in came)
    master.kill()
    relay.kill()
    relay.start().event("ready")
    time.sleep(MASTERLESS_S)
    waiting = swarm.hub.metrics()["lanyard_sessions"]
    master.start().event("ready")
    until("the master is back", lambda: swarm.hub.metrics().get("lanyard_hub_ready") == 1, PATIENCE_S)
    ready = time.time() * 1000
    back = swarm.all("back")
    there, asked, codes = total(back)
    took = (max(one["last_at"] for one in back) - ready) / 1000
    tries = (sum(one["opened"] for one in back) - opened) / SCHOOL
    knocks = swarm.count_knocks() - swarm.knocks
    at, after = swarm.addition("after-the-restart")
    lost, twice = sum(one["lost"] for one in after), sum(one["twice"] for one in after)
    report.promise("the hub is killed: all of the address are back, nobody is asked", there == SCHOOL and asked == knocks == 0,
                   f"{there} of {SCHOOL}, {knocks} knocks")
    report.promise(f"the last of them within {SCHOOL_BACK_S} s after the master", took < SCHOOL_BACK_S, f"{took:.1f} s")
    report.promise(f"a device opens fewer than {SCHOOL_TRIES} sockets for that", tries < SCHOOL_TRIES, f"{tries:.1f} on the average")
    report.promise("an addition reaches all of the address, once", lost == twice == 0, f"{lost} lost, {twice} duplicated")
    report.say(f"## {SCHOOL} devices behind one address\n\n" + table(["", ""], [
        ["came at once: all in after", f"{max(one['max_ms'] for one in came) / 1000:.1f} s"],
        ["sockets opened for it, a device", f"{opened / SCHOOL - 1:.2f}"],
        [f"sessions {MASTERLESS_S} s after the kill, without a master", f"{waiting:.0f}"],
        ["the master is back: half of them in after", f"{max(0, quantile([one['p50_ms'] for one in back], 0.5)) / 1000:.1f} s"],
        ["all of them", f"{took:.1f} s"], ["sockets opened since the kill, a device", f"{tries:.1f}"],
        ["closed with", ", ".join(map(str, codes)) or "nothing"]]))
    swarm.quit()
    return swarm


def idle(base, report):
    need = IDLE + 500
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * need:
        report.say(f"## {IDLE} idle devices\n\nLeft out: this machine allows too few descriptors.\n")
        return None
    swarm = Swarm(base, IDLE, "idle-hub")
    relay = swarm.hub.relay
    joined = swarm.join()
    empty = rss(relay.pid)
    started = time.monotonic()
    beside = Beside(relay.pid)
    before = swarm.used()
    came = swarm.all("connect")
    took = time.monotonic() - started
    used = [after - then for after, then in zip(swarm.used(), before)]
    there, asked, codes = total(came)
    report.promise(f"{IDLE} are in", there == IDLE and asked == 0, f"{there} of {IDLE} after {took:.1f} s, {asked} were asked to knock, closed with {codes or 'nothing'}")
    most = beside.end()

    def settled():
        """Two looks in a row that find the same."""
        before = rss(relay.pid)
        time.sleep(2)
        return abs(rss(relay.pid) - before) < MIB and rss(relay.pid)

    quiet = until("the relay's memory stands still", settled, PATIENCE_S)
    each = (quiet - empty) / IDLE
    before = swarm.used()
    time.sleep(STILL_S)
    at_rest = [(after - then) / STILL_S for after, then in zip(swarm.used(), before)]
    report.promise(f"an idle device costs the relay less than {RELAY_A_DEVICE // KIB} KiB", each < RELAY_A_DEVICE, f"{each / KIB:.1f} KiB each")
    at, found = swarm.addition("idle-addition")
    late = [seen - at for one in found for seen in one["at"]]
    lost, twice = sum(one["lost"] for one in found), sum(one["twice"] for one in found)
    report.promise(f"an addition reaches {IDLE}, once", lost == twice == 0, f"{lost} lost, {twice} duplicated")
    report.say(f"## {IDLE} idle devices\n\n" + table(["", ""], [
        ["joined, eight at a time", f"{joined:.1f} s"], ["came back at once: all in after", f"{took:.1f} s"], ["of a processor until then", in_words(used)],
        ["relay, before they came", f"{empty / MIB:.1f} MiB"], ["relay, at most while they came", f"{most / MIB:.1f} MiB"],
        ["relay, all of them idle", f"{quiet / MIB:.1f} MiB"], ["relay, for each", f"{each / KIB:.1f} KiB"],
        [f"of a processor in {STILL_S} s in which nothing happens but life signs",
         ", ".join(f"{who} {part:.0%}" for who, part in zip(("relay", "master", "clients"), at_rest))],
        ["relay, descriptors", descriptors(relay.pid)], ["master, all of them idle", f"{rss(swarm.hub.master.pid) / MIB:.1f} MiB"],
        ["from an addition until seen, p50", f"{quantile(late, 0.5):.0f} ms"], ["p99", f"{quantile(late, 0.99):.0f} ms"]]))
    swarm.quit()
    return swarm


def chosen():
    """The parts named on the command line, or all."""
    parts = {"storm": storm, "school": school, "idle": idle}
    return [parts[name] for name in sys.argv[1:] or parts]


def main():
    interruptible()
    base = folder("storm")
    report = Report("storm", "Storm", f"The real binary, built with the profile `proof`, on {machine()} that hold the hub and all of its clients. Relay and master are processes "
                    "of their own; each device has a key and an address of its own. Made by `tests/deep/storm`.")
    swarms = []
    for part in chosen():
        try:
            swarms.append(part(base, report))
        except (Late, OSError) as error:
            print(traceback.format_exc())
            report.promise(f"{part.__name__}: comes to its end", False, f"{type(error).__name__}: {error}".replace("\n", " "))
    panicked = [path.name for path in base.rglob("*.err") if "panicked" in path.read_text(errors="replace")]
    report.promise("no process panicked", not panicked, ", ".join(panicked) or "none")
    report.end()


main()
