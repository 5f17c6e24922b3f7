"""Faults of the machine below a hub and its devices, one after the other, each with a hub of its own.

    faults.py [NAME…]      all, or some of them by the names in FAULTS, below
"""
from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from harness import (MIB, Hub, Late, Process, Report, call, descriptors, folder, interruptible, is_unfinished, machine, processor_s, seeded, sha256, table, until,
                     write_random)

HERE = Path(__file__).resolve().parent
DAY = 86_400
# How long another program holds the database.
LOCKED_S = 60


class Skipped(Exception):
    """This machine lacks what the check needs."""


class Disk:
    """A small file system in memory; it is gone when the program ends."""

    def __init__(self, at: Path, mib: int):
        at.mkdir(parents=True, exist_ok=True)
        self.at = at
        if os.geteuid() != 0:
            raise Skipped("only root may mount a small disk")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "lanyard-test", str(at)], capture_output=True, check=False)
        if done.returncode != 0:
            raise Skipped(f"no disk can be mounted here: {done.stderr.decode().strip()}")
        atexit.register(self.gone)

    def again(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.at)], check=True)

    def fill(self):
        """Takes all the room that is left."""
        with open(self.at / "filler", "wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    pass

    def empty(self):
        (self.at / "filler").unlink()

    def gone(self):
        subprocess.run(["umount", "--lazy", str(self.at)], check=False, capture_output=True)


class Scene:
    """A hub, an owner who shares, a receiver; everybody is let in before anything breaks."""

    def __init__(self, base: Path, rng: random.Random, sizes: list[int], at: Path | None = None, env=None, pace=()):
        self.base, self.rng, self.logs, self.env = base, rng, base / "logs", env
        self.logs.mkdir(parents=True)
        self.hub = Hub(at or base, self.logs, halves=False, env=env).start()
        self.shared = base / "shared"
        self.hashes = {}
        for number, size in enumerate(sizes):
            self.hashes[f"{number}.bin"] = write_random(self.shared / f"{number}.bin", size, rng)
        self.hub.admit("Owner", base / "owner", self.logs)
        self.hub.admit("Receiver", base / "receiver", self.logs)
        self.owner = Process("owner", base / "owner", ["share", self.shared, *pace], self.logs, env=env).start()
        self.owner.event("shared")
        self.lives = 0

    def get(self, leaf, out: Path, *more):
        """Starts to fetch."""
        out.mkdir(parents=True, exist_ok=True)
        self.lives += 1
        return Process(f"get-{self.lives}", self.base / "receiver", ["get", f"shared/{leaf}", "-o", out, *more], self.logs, env=self.env).start()

    def fetched(self, leaf, out: Path, seconds=60):
        """Fetches to the end: whether it came as it was."""
        get = self.get(leaf, out)
        code = get.wait(seconds)
        whole = (out / leaf).exists() and sha256(out / leaf) == self.hashes[leaf]
        (out / leaf).unlink(missing_ok=True)
        return code == 0 and whole

    def knock(self, name):
        device = Process(f"join-{name}", self.base / name, ["join", self.hub.url, "--name", name], self.logs, env=self.env).start()
        return device, self.hub.pending(name)

    def holds(self, name, device, report, what):
        """A decision that waited for the disk is made as soon as the disk takes it, and the device learns so by itself."""
        code = device.wait()
        report.promise(what, code == 0 and self.membership(name) == "approved", f"{name} is {self.membership(name) or 'not listed'}, `join` ends with {code}")

    def row_with_digits(self, name):
        row = self.hub.device(name)
        return row if row and row["membership"] == "pending" and row.get("code") else None

    def approve(self, row):
        return call(self.hub.data, "approve", row["public_id"], "--code", row["code"])

    def membership(self, name):
        row = self.hub.device(name)
        return row and row["membership"]

    def said(self, process, from_byte=0):
        return process.err.read_bytes()[from_byte:].decode(errors="replace") if process.err.exists() else ""

    def close(self):
        self.owner.stop()
        self.hub.stop()


def names(out: Path):
    return sorted(path.name for path in out.rglob("*") if path.is_file())


def in_words(text):
    """The first line that a person reads, without its time and the places of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = re.sub(r"\S*/lanyard-faults-[^/\s]*", "…", re.sub(r"^\d{4}-\S+Z\s+", "", lines[0])) if lines else "nothing"
    return first[:240]


def room(base, rng, report):
    """The receiver's disk is too small, then it fills up on the way."""
    scene = Scene(base, rng, [14 * MIB])
    disk = Disk(base / "out", 8)
    sent = scene.owner.written()
    get = scene.get("0.bin", disk.at)
    code = get.wait()
    said, cost = scene.said(get), scene.owner.written() - sent
    report.promise("receiver's disk too small: said before a byte is asked for", code == 1 and "no room left on this disk" in said and cost < 64 << 10,
                   f"ends with {code}: “{in_words(said)}”, {cost} bytes were sent")
    disk.again("size=32m")
    get = scene.get("0.bin", disk.at, "--limit-down", "3M")
    until("bytes are on their way", lambda: any(one.get("event") == "progress" and one["done"] > MIB for one in get.events()))
    disk.fill()
    code = get.wait()
    said, found = scene.said(get), names(disk.at)
    report.promise("receiver's disk full on the way: said in words", code == 1 and "no room left on this disk" in said, f"ends with {code}: “{in_words(said)}”")
    report.promise("receiver's disk full on the way: what came is kept, and has no final name", "0.bin" not in found and any(map(is_unfinished, found)),
                   ", ".join(name.replace("0.bin", "…") for name in found if name != "filler") or "nothing is there")
    kept = sum(os.stat(path).st_blocks * 512 for path in disk.at.iterdir() if is_unfinished(path.name))
    disk.empty()
    sent = scene.owner.written()
    good = scene.fetched("0.bin", disk.at)
    rest = scene.owner.written() - sent
    report.promise("receiver's disk has room: the same command goes on from there", good and rest < 14 * MIB - kept // 2,
                   f"{kept / MIB:.1f} MiB were kept, {rest / MIB:.1f} of 14 MiB were sent then, {'SHA-256 equal' if good else 'NOT whole'}")
    scene.close()


def read_only(base, rng, report):
    """The receiver's folder cannot be written to."""
    scene = Scene(base, rng, [3 * MIB, 30 * MIB])
    disk = Disk(base / "out", 64)
    disk.again("ro")
    get = scene.get("0.bin", disk.at)
    code = get.wait()
    report.promise("read-only folder: said in words", code == 1 and "cannot be written to" in scene.said(get), f"ends with {code}: “{in_words(scene.said(get))}”")
    disk.again("rw")
    report.promise("read-only folder: works once it can be written to", scene.fetched("0.bin", disk.at), "SHA-256 compared")
    scene.close()


def pulled(base, rng, report):
    """The disk that the owner shares from is pulled, and comes back."""
    volume = Disk(base / "volume", 64)
    place = base / "shared"
    place.mkdir()

    def mount():
        subprocess.run(["mount", "--bind", str(volume.at), str(place)], check=True)

    def pull():
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)

    mount()
    atexit.register(pull)
    scene = Scene(base, rng, [3 * MIB, 2 * MIB])
    out, listed = base / "out", sorted(row["file_id"] for row in scene.hub.files())
    pull()
    get = scene.get("0.bin", out)
    said = until("the owner says so", lambda: [line for line in scene.said(scene.owner).splitlines() if "cannot be reached" in line])[0]
    report.promise("owner's disk pulled: its person is told, with the path", "0.bin" in said, f"“{in_words(said)}”")
    still = sorted(row["file_id"] for row in scene.hub.files())
    report.promise("owner's disk pulled: its files stay on the list, who fetches waits", get.runs and still == listed, f"{len(still)} of {len(listed)} are listed")
    mount()
    code = get.wait()
    report.promise("owner's disk is back: the fetch goes on by itself", code == 0 and sha256(out / "0.bin") == scene.hashes["0.bin"],
                   f"`get` ends with {code}, SHA-256 compared")
    (place / "1.bin").unlink()
    code = scene.get("1.bin", out).wait()
    until("the removed file leaves the list", lambda: len(scene.hub.files()) == len(listed) - 1)
    report.promise("a file that was really removed leaves the list", code == 1, f"`get` ends with {code}, {len(listed) - 1} listed")
    scene.close()


def broken_disk(base):
    """What makes a process see a broken disk."""
    compiler = shutil.which("cc")
    if not compiler:
        raise Skipped("no C compiler for the broken disk")
    library = base / "badsector.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "badsector.c")], check=True)
    return library


def torn_away(base, rng, report):
    """The disk that a receiver writes to goes in mid-transfer, and comes back."""
    out, gone = base / "out", base / "gone"
    library = broken_disk(base)
    scene = Scene(base, rng, [14 * MIB], env={"LD_PRELOAD": str(library), "LANYARD_TORN": str(out), "LANYARD_TORN_WHEN": str(gone)})
    get = scene.get("0.bin", out, "--limit-down", "3M")
    until("bytes are on their way", lambda: any(one.get("event") == "progress" and one["done"] > MIB for one in get.events()))
    gone.touch()
    code = get.wait()
    said, found = scene.said(get), names(out)
    report.promise("receiver's disk goes: said in words, no final name", code == 1 and "0.bin" in said and "os error 5" in said and "0.bin" not in found,
                   f"ends with {code}: “{in_words(said)}”, {', '.join(name.replace('0.bin', '…') for name in found) or 'nothing'} is there")
    gone.unlink()
    report.promise("receiver's disk is back: the same command brings the file to its end", scene.fetched("0.bin", out), "SHA-256 compared")
    scene.close()


def device_full(base, rng, report):
    """The disk with a device's own notes is full; the one that it fetches to has room."""
    own = [Disk(base / name, 2) for name in ("owner", "receiver", "stranger")]
    scene = Scene(base, rng, [3 * MIB, 2 * MIB])
    for disk in own:
        disk.fill()
    out = base / "out"
    report.promise("a device's own disk full: it fetches", scene.fetched("0.bin", out), "SHA-256 compared")
    scene.owner.kill()
    scene.owner.start().event("shared")
    report.promise("a device's own disk full: it shares", scene.fetched("1.bin", out), "SHA-256 compared")
    join = Process("join-stranger", base / "stranger", ["join", scene.hub.url, "--name", "Stranger"], scene.logs).start()
    code = join.wait()
    report.promise("no room for a key: said in words, nobody knocks", code == 1 and "room" in scene.said(join) and scene.hub.device("Stranger") is None,
                   f"`join` ends with {code}: “{in_words(scene.said(join))}”")
    own[2].empty()
    join, row = scene.knock("stranger")
    scene.approve(row)
    report.promise("there is room: the same command goes on from there", join.wait() == 0 and scene.membership("stranger") == "approved", f"`join` ends with {join.wait()}")
    scene.close()


def bad_sector(base, rng, report):
    """One file of the owner cannot be read."""
    library = broken_disk(base)
    scene = Scene(base, rng, [300_000] * 20, env={"LD_PRELOAD": str(library), "LANYARD_BAD": "shared/7.bin"})
    out = base / "out"
    get = Process("get-all", base / "receiver", ["get", "shared", "-o", out], scene.logs).start()
    code = get.wait()
    came = [leaf for leaf, digest in scene.hashes.items() if (out / "shared" / leaf).exists() and sha256(out / "shared" / leaf) == digest]
    report.promise("one unreadable file: the others come", code == 1 and len(came) == 19 and "7.bin" not in came, f"{len(came)} of 20, `get` ends with {code}")
    said = next((line for line in scene.said(scene.owner).splitlines() if "cannot be read" in line), "")
    report.promise("one unreadable file: its owner is told path and reason", "7.bin" in said and "os error 5" in said, f"“{in_words(said)}”")
    report.promise("one unreadable file: it stays on the list", len(scene.hub.files()) == 20, f"{len(scene.hub.files())} listed")
    scene.close()


def hub_full(base, rng, report):
    """The hub's own disk is full while it runs."""
    disk = Disk(base / "disk", 6)
    scene = Scene(base, rng, [3 * MIB, 5 * MIB, 1 * MIB], at=disk.at)
    hub, out = scene.hub, base / "out"
    early, knocked = scene.knock("Early")
    mark = hub.master.err.stat().st_size
    disk.fill()
    # Knocks go into the record only: more of them than the last page of the file has room for.
    crowd = [Process(f"join-crowd-{number}", base / f"crowd{number}", ["join", hub.url, "--name", f"Crowd {number}"], scene.logs).start() for number in range(14)]
    until("a crowd knocks", lambda: sum(row["membership"] == "pending" for row in hub.devices()) >= len(crowd) + 1)
    for one in crowd:
        one.kill()
    code, _, said = scene.approve(knocked)
    claimed = code == 0
    log = lambda: scene.said(hub.master, mark)
    report.promise("hub's disk full: a decision that cannot be kept is not called done", not claimed, f"`approve` ends with {code}: “{in_words(said)}”")
    report.promise("hub's disk full: the hub says so", "room" in log() or "full" in log(), f"“{in_words(log())}”")
    try:
        good = scene.fetched("0.bin", out)
        found = "SHA-256 compared"
    except Late as late:
        good, found = False, str(late)[:200]
    report.promise("hub's disk full: who is in can fetch", good and hub.master.runs, found)
    late = Process("join-Late", base / "Late", ["join", hub.url, "--name", "Late"], scene.logs).start()
    report.promise("hub's disk full: it runs, and nobody is let in", hub.master.runs and early.runs and late.runs, "both still wait at the door")
    disk.empty()
    scene.holds("Early", early, report, "hub's disk has room: the decision that waited holds")
    worked = scene.approve(hub.pending("Late"))[0] == 0
    report.promise("hub's disk has room: who knocked meanwhile is asked about, and let in", worked and late.wait() == 0, "without a restart")
    report.promise("hub's disk has room: files are fetched", scene.fetched("1.bin", out), "SHA-256 compared")
    code, lines = hub.audit()
    decided = {line.get("name") for line in lines if line and line.get("event") == "approved"}
    report.promise("hub's disk was full: the record is whole afterwards", code == 0, f"`lanyard audit` ends with {code}; {sum(not line for line in lines)} of {len(lines)} lines cannot be read")
    report.promise("hub's disk was full: the record holds what was decided after it", {"Early", "Late"} <= decided, ", ".join(sorted(filter(None, decided))))
    hub.master.kill()
    hub.start()
    until("all are in after a kill", lambda: {row["name"]: row["membership"] for row in hub.devices()}.get("Early") == "approved")
    members = {row["name"]: row["membership"] for row in hub.devices()}
    report.promise("hub's disk was full: a kill later all of it holds", all(members.get(name) == "approved" for name in ("Owner", "Receiver", "Early", "Late")),
                   ", ".join(f"{name} {membership}" for name, membership in sorted(members.items())))
    hub.master.kill()
    disk.fill()
    hub.master.start()

    def stands():
        return not hub.master.runs or any(one.get("event") == "ready" for one in hub.master.events())

    until("the hub stands, or has given up", stands)
    if hub.master.runs:
        found, good = "it starts", True
    else:
        said = in_words(scene.said(hub.master, hub.master.since_err))
        good, found = hub.master.child.returncode == 1 and "room" in said, f"ends with {hub.master.child.returncode}: “{said}”"
    report.promise("hub's disk full at its start: it starts, or says why not", good, found)
    disk.empty()
    hub.start()
    until("the owner is back", lambda: (hub.device("Owner") or {}).get("presence") == "online")
    report.promise("hub's disk has room at its start: files are fetched", scene.fetched("2.bin", out), "SHA-256 compared")
    scene.close()


def locked(base, rng, report):
    """Another program holds the hub's database."""
    scene = Scene(base, rng, [20 * MIB, 2 * MIB])
    hub, out = scene.hub, base / "out"
    device, knocked = scene.knock("Guest")
    under_way = scene.get("0.bin", out, "--limit-down", "2M")
    until("bytes are on their way", lambda: any(one.get("event") == "progress" and one["done"] > MIB for one in under_way.events()))
    mark = hub.master.err.stat().st_size
    lock = sqlite3.connect(hub.data / "lanyard.db", isolation_level=None, timeout=10)
    lock.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    code, _, said = scene.approve(knocked)
    waited = time.monotonic() - began
    report.promise("database locked: a decision that cannot be kept is not called done", code != 0, f"`approve` ends with {code} after {waited:.1f} s: “{in_words(said)}”")
    time.sleep(max(0, LOCKED_S - waited))
    report.promise("database locked: nobody was let in", device.runs, f"`join` still waits after {time.monotonic() - began:.1f} s")
    lock.execute("ROLLBACK")
    lock.close()
    report.promise("database locked: the hub says so and runs", hub.master.runs and "database" in scene.said(hub.master, mark), f"“{in_words(scene.said(hub.master, mark))}”")
    scene.holds("Guest", device, report, "database free: the decision that waited holds")
    code = under_way.wait()
    whole = sha256(out / "0.bin") == scene.hashes["0.bin"] if (out / "0.bin").exists() else False
    report.promise("database locked: what was on its way arrives", code == 0 and whole, f"`get` ends with {code}, SHA-256 {'equal' if whole else 'NOT equal'}")
    report.promise("database was locked: the record is whole", hub.audit()[0] == 0, f"`lanyard audit` ends with {hub.audit()[0]}")
    hub.master.stop()
    lock = sqlite3.connect(hub.data / "lanyard.db", isolation_level=None, timeout=10)
    lock.execute("BEGIN EXCLUSIVE")
    hub.master.start()
    mark = hub.master.since_err
    until("the hub has said why it waits, or has given up", lambda: not hub.master.runs or "lanyard.db" in scene.said(hub.master, mark))
    waits, said = hub.master.runs, in_words(scene.said(hub.master, mark))
    lock.execute("ROLLBACK")
    lock.close()
    report.promise("database locked at its start: it waits, or ends, and says why", "lanyard.db" in said or "lanyard.db" in hub.master.said(),
                   f"it {'waits' if waits else f'ends with {hub.master.child.returncode}'}: “{said}”")
    if hub.master.runs:
        hub.master.event("ready")
    hub.start()
    until("the owner is back", lambda: (hub.device("Owner") or {}).get("presence") == "online")
    report.promise("database free at its start: files are fetched", scene.fetched("1.bin", out), "SHA-256 compared")
    scene.close()


def damaged(base, rng, report):
    """The hub's database is rubbish when it starts again."""
    scene = Scene(base, rng, [2 * MIB, 1 * MIB])
    hub, out = scene.hub, base / "out"
    guest, row = scene.knock("Guest")
    call(hub.data, "refuse", row["public_id"])
    guest.wait()
    listed = sorted((row["path"], row["file_id"]) for row in hub.files())
    link = call(base / "receiver", "link", "shared/0.bin")[1][-1]
    link = "/" + (link if isinstance(link, str) else link["url"]).split("/", 3)[3]
    hub.master.kill()
    database = hub.data / "lanyard.db"
    length = database.stat().st_size
    with open(database, "r+b") as file:
        file.seek(length // 2)
        file.write(rng.randbytes(length - length // 2))
    for leaf in ("lanyard.db-wal", "lanyard.db-shm"):
        (hub.data / leaf).unlink(missing_ok=True)
    began = time.monotonic()
    hub.start()
    until("the owner's files are listed again", lambda: sorted((row["path"], row["file_id"]) for row in hub.files()) == listed)
    took = time.monotonic() - began
    report.promise("database damaged: it is made anew, and its owner's files are listed as before, unasked", True, f"{took:.1f} s after the start, {len(listed)} files, the same ids")
    report.promise("database damaged: the host is told", call(hub.data, "status")[0] == 0 and "database_rebuilt" in json.dumps(call(hub.data, "status")[1]), "`lanyard status` says database_rebuilt")
    report.promise("database damaged: who was let in is in, and fetches", scene.fetched("0.bin", out), "SHA-256 compared")
    report.promise("database damaged: who was turned away is not", scene.membership("Guest") == "disapproved", f"Guest is {scene.membership('Guest')}")
    # Links stand in the database only: those whose pages cannot be read are gone, and say so.
    status, body = hub.get(link)
    works = status == 200 and hashlib.sha256(body).hexdigest() == scene.hashes["0.bin"]
    report.promise("database damaged: a link from before works, or is gone", works or status == 404, f"{status}{', SHA-256 compared' if works else ''}")
    knocks = [row for row in hub.devices() if row["membership"] == "pending"]
    report.promise("database damaged: nobody had to ask again", not knocks, f"{len(knocks)} knocks")
    scene.close()


def exhausted(base, rng, report):
    """The relay has no descriptors left."""
    if not shutil.which("prlimit"):
        raise Skipped("prlimit is not there")
    scene = Scene(base, rng, [2 * MIB])
    scene.close()
    hub = scene.hub
    hub.relay = Process("narrow-relay", hub.data, ["relay", "--listen", f"127.0.0.1:{hub.port}"], scene.logs, wrap=["prlimit", "--nofile=128:128"])
    hub.master = Process("narrow-master", hub.data, ["master", "--headless", "--relay", hub.url], scene.logs)
    hub.start()
    scene.owner.start().event("shared")
    out = base / "out"
    report.promise("128 descriptors: files are fetched", scene.fetched("0.bin", out), "SHA-256 compared")
    over, crowd = threading.Event(), []

    def closed(one):
        try:
            if one.recv(4096) != b"":
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass
        one.close()
        return True

    def flood():
        """Always 200 sockets, as many of them anew as the relay closes."""
        while not over.is_set():
            crowd[:] = [one for one in crowd if not closed(one)]
            while len(crowd) < 200 and not over.is_set():
                one = socket.socket()
                one.settimeout(2)
                try:
                    one.connect(("127.0.0.1", hub.port))
                    one.send(b"GET /healthz HTTP/1.1\r\n")
                    one.setblocking(False)
                    crowd.append(one)
                except OSError:
                    one.close()
                    break
            over.wait(0.05)

    def healthy(seconds=5):
        try:
            return hub.get("/healthz", seconds)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def during(seconds):
        """The most descriptors, the processor time a second, and how many honest requests were answered."""
        most, tried, answered, began, used = 0, 0, 0, time.monotonic(), processor_s(hub.relay.pid)
        while time.monotonic() - began < seconds:
            most = max(most, descriptors(hub.relay.pid))
            tried, answered = tried + 1, answered + healthy(1)
        return most, (processor_s(hub.relay.pid) - used) / (time.monotonic() - began), tried, answered

    thread = threading.Thread(target=flood)
    thread.start()
    until("a crowd is there", lambda: len(crowd) >= 150)
    most, used, tried, answered = during(8)
    report.promise("200 silent sockets at 128 descriptors: honest requests are answered", answered == tried > 0,
                   f"{most} taken at most; {answered} of {tried} honest requests were answered meanwhile, {used:.2f} of a processor")
    # Now really none: fewer than it has open.
    held = descriptors(hub.relay.pid)
    before = hub.relay.err.stat().st_size
    subprocess.run(["prlimit", "--pid", str(hub.relay.pid), "--nofile=16:128"], check=True)
    most, used, tried, answered = during(8)
    log = hub.relay.err.stat().st_size - before
    report.promise("no descriptor left: it runs and does not spin", hub.relay.runs and used < 0.5,
                   f"{held} open, 16 allowed; {answered} of {tried} honest requests were answered meanwhile, {used:.2f} of a processor")
    report.promise("no descriptor left: it says so, and does not fill its log", 0 < log < 65_536, f"{log} bytes of log: “{in_words(scene.said(hub.relay, before))}”")
    over.set()
    thread.join()
    for one in crowd:
        one.close()
    subprocess.run(["prlimit", "--pid", str(hub.relay.pid), "--nofile=128:128"], check=True)
    began = time.monotonic()
    until("it serves again", healthy)
    again = time.monotonic() - began
    report.promise("descriptors again: it serves, the same process", hub.relay.runs and hub.relay.lives == 1 and scene.fetched("0.bin", out),
                   f"/healthz answers after {again * 1000:.0f} ms, a file is fetched")
    scene.close()


def clock(base, rng, report):
    """The wall clock jumps, forth and back."""
    compiler = shutil.which("cc")
    if not compiler:
        raise Skipped("no C compiler for the clock")
    library, jump = base / "clock.so", base / "jump"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "clock.c")], check=True)
    jump.write_bytes(struct.pack("=q", 0))
    scene = Scene(base, rng, [30 * MIB, 2 * MIB], env={"LD_PRELOAD": str(library), "LANYARD_CLOCK": str(jump)})
    hub, out = scene.hub, base / "out"

    def turn(seconds):
        with open(jump, "r+b") as file:
            file.write(struct.pack("=q", seconds))

    visitor, row = scene.knock("Visitor")
    call(hub.data, "approve", row["public_id"], "--code", row["code"], "--for", "8h")
    visitor.wait()
    guest, row = scene.knock("Guest")
    under_way = scene.get("0.bin", out, "--limit-down", "3M")
    until("bytes are on their way", lambda: any(one.get("event") == "progress" and one["done"] > MIB for one in under_way.events()))
    began = time.monotonic()
    turn(DAY)
    ahead = lambda: int(hub.audit()[1][-1]["at_ms"]) / 1000 - time.time()
    code, _, said = scene.approve(hub.pending("Guest"))
    report.promise("a day forth: a knock is decided", code == 0 and guest.wait() == 0, f"`approve` ends with {code} {in_words(said) if code else ''}".strip())
    report.promise("a day forth: the hub's clock did jump", abs(ahead() - DAY) < 3600, f"its record is {ahead() / 3600:.1f} h ahead")
    try:
        until("the visitor's time is over", lambda: scene.membership("Visitor") == "disapproved", 120)
        report.promise("a day forth: whose time is over is turned away", True, f"{time.monotonic() - began:.1f} s after the jump")
    except Late:
        report.promise("a day forth: whose time is over is turned away", False, f"is {scene.membership('Visitor')} two minutes later")
    turn(-DAY)
    second, row = scene.knock("Second")
    code, _, said = scene.approve(row)
    report.promise("two days back: a knock is decided", code == 0 and second.wait() == 0, f"`approve` ends with {code} {in_words(said) if code else ''}".strip())
    code = under_way.wait()
    whole = (out / "0.bin").exists() and sha256(out / "0.bin") == scene.hashes["0.bin"]
    report.promise("jumps: what was on its way arrives", code == 0 and whole, f"`get` ends with {code}, SHA-256 {'equal' if whole else 'NOT equal'}")
    report.promise("two days back: files are fetched", scene.fetched("1.bin", out), "SHA-256 compared")
    hub.master.kill()
    hub.start()
    until("the owner is back", lambda: (hub.device("Owner") or {}).get("presence") == "online")
    members = {name: scene.membership(name) for name in ("Owner", "Receiver", "Guest", "Second", "Visitor")}
    report.promise("two days back, started again: who was in is in, who was turned away is not",
                   all(members[name] == "approved" for name in ("Owner", "Receiver", "Guest", "Second")) and members["Visitor"] == "disapproved",
                   ", ".join(f"{name} {membership}" for name, membership in members.items()))
    report.promise("two days back, started again: files are fetched", scene.fetched("1.bin", out), "SHA-256 compared")
    report.promise("jumps: the record is whole", hub.audit()[0] == 0, f"`lanyard audit` ends with {hub.audit()[0]}")
    scene.close()


def parts(base, rng, report):
    """A part of a small file is on its way to somebody else already: it comes in a body of its own, beside the rest."""
    count = 12
    # A slow owner: one body has begun and not ended when the other comes.
    scene = Scene(base, rng, [MIB] * count, pace=["--limit-up", "1M"])
    out, failed = base / "out", []
    for number in range(count):
        leaf = f"{number}.bin"
        _, lines, _ = call(base / "receiver", "link", f"shared/{leaf}")
        link = lines[-1] if isinstance(lines[-1], str) else lines[-1]["url"]
        first = (number % 3) * MIB // 4
        reader = subprocess.Popen(["curl", "-sS", "-o", "/dev/null", "-r", f"{first}-{first + MIB // 2 - 1}", f"{scene.hub.url}/{link.split('/', 3)[3]}"])
        get = scene.get(leaf, out)
        if get.wait() != 0 or sha256(out / leaf) != scene.hashes[leaf]:
            failed.append(in_words(scene.said(get)))
        reader.wait()
    report.promise("a small file of which a part is on its way to others arrives", not failed,
                   f"{len(failed)} of {count} failed{f': “{failed[0]}”' if failed else ''}")
    scene.close()


FAULTS = {"parts": parts, "room": room, "read-only": read_only, "torn-away": torn_away, "device-full": device_full, "pulled": pulled, "bad-sector": bad_sector, "hub-full": hub_full, "locked": locked, "damaged": damaged, "descriptors": exhausted, "clock": clock}


def main():
    interruptible()
    seed, rng = seeded()
    base = folder("faults")
    report = Report("faults", "Faults", f"The real binary, built with the profile `proof`, on {machine()}. Each fault meets a hub of its own, an owner and a "
                    f"receiver. Made by `tests/deep/faults`, seed {seed}.")
    skipped = []
    for name in sys.argv[1:] or FAULTS:
        place = base / name
        place.mkdir()
        try:
            FAULTS[name](place, rng, report)
        except Skipped as why:
            skipped.append([name, str(why)])
        except (Late, OSError, subprocess.SubprocessError, sqlite3.Error, IndexError, KeyError) as error:
            print(traceback.format_exc())
            report.promise(f"{name}: comes to its end", False, f"{type(error).__name__}: {str(error)[:300]}".replace("\n", " "))
        panicked = [path.name for path in (place / "logs").glob("*.err") if "panicked" in path.read_text(errors="replace")]
        report.promise(f"{name}: no process panicked", not panicked, ", ".join(panicked) or "none")
    if skipped:
        report.say("## Left out\n\n" + table(["Fault", "why"], skipped))
    report.end()


main()
