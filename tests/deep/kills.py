"""Transfers under kill -9: each round 20 at once, and one role of four is killed in their midst and started again. Before that,
one transfer at a time, so that what a kill costs a transfer is its own.

A round lets four receivers fetch five files each, with a `lanyard get` for each file. When the owners have sent a random part
of it, a random role dies. In every fifth round all receivers want the same files, so that uploads are shared when it happens.
What owners send is read from /proc, over all of their lives; the relay's own count dies with the relay.
"""
from __future__ import annotations

import math
import os
import shutil
import threading
import time

from harness import (MIB, Hub, Late, Process, Report, folder, interruptible, is_unfinished, machine, quantile, seeded, sha256, table,
                     until, write_random)

ROUNDS = int(os.environ.get("LANYARD_KILLS", "50"))
ROLES = ("relay", "master", "owner", "receiver")
OWNERS, RECEIVERS, FILES_EACH, POOL_EACH = 2, 4, 5, 22
SMALLEST, LARGEST = 2 * MIB, 40 * MIB
# A transfer may wait for a device that comes back; a round that takes longer than this hangs.
ROUND_S = 240
# The dead stay dead for up to so long.
AWAY_S = 1.0
# Kills of a transfer that is alone, and its size.
LONE_KILLS = int(os.environ.get("LANYARD_LONE_KILLS", "40"))
LONE_SIZE = 32 * MIB
# Requests and their heads are counted as well.
SLACK = MIB
# The relay's budget is what may be on its way; sockets' buffers and groups that broke off in the middle hold as much again.
SURPLUS_BOUND = 64 * MIB


class Watch(threading.Thread):
    """Looks at what has its final name, all the time: it must be whole from the first moment."""

    def __init__(self, out, hashes):
        super().__init__(daemon=True)
        self.out, self.hashes = out, hashes
        self.seen, self.broken, self.looks, self.over = set(), [], 0, threading.Event()

    def run(self):
        while not self.over.wait(0.005):
            self.look()

    def look(self):
        self.looks += 1
        for at, _, names in os.walk(self.out):
            for name in names:
                path = os.path.join(at, name)
                if is_unfinished(name) or path in self.seen:
                    continue
                try:
                    good = sha256(path) == self.hashes.get(name)
                except FileNotFoundError:
                    continue
                self.seen.add(path)
                if not good:
                    self.broken.append(path)


class Get(Process):
    """One transfer; what it fetches, and where to."""

    def __init__(self, receiver, number, path, out, data, logs, limit):
        arguments = ["get", path, "-o", out, *(["--limit-down", limit] if limit else [])]
        super().__init__(f"get-{receiver}-{number}", data, arguments, logs)
        self.receiver, self.file = receiver, out / path.rsplit("/", 1)[1]


class Crowd:
    def __init__(self, base, rng):
        self.base, self.rng, self.logs = base, rng, base / "logs"
        self.logs.mkdir()
        self.hub = Hub(base, self.logs, halves=True).start()
        self.hashes, self.sizes, self.paths, self.lone, self.owners = {}, {}, [], [], []
        for number in range(OWNERS):
            name = f"Owner {number + 1}"
            shared = base / f"shared{number + 1}"
            for file in range(POOL_EACH):
                # As many small ones as large ones, in powers of two.
                size = int(math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))))
                leaf = f"{number + 1}-{file:02}.bin"
                self.hashes[leaf] = write_random(shared / leaf, size, rng)
                self.sizes[leaf] = size
                self.paths.append(f"{shared.name}/{leaf}")
            for file in range(number, LONE_KILLS, OWNERS):
                leaf = f"lone-{file:02}.bin"
                self.hashes[leaf] = write_random(shared / leaf, LONE_SIZE, rng)
                self.lone.append(f"{shared.name}/{leaf}")
            data = base / f"owner{number + 1}"
            self.hub.admit(name, data, self.logs)
            self.owners.append(Process(f"owner{number + 1}", data, ["share", shared], self.logs).start())
        for owner in self.owners:
            owner.event("shared")
        self.receivers = []
        for number in range(RECEIVERS):
            data = base / f"receiver{number + 1}"
            self.hub.admit(f"Receiver {number + 1}", data, self.logs)
            self.receivers.append(data)
        self.everybody = OWNERS + RECEIVERS + 1

    def sent(self):
        return sum(owner.written() for owner in self.owners)

    def knocks(self):
        code, lines = self.hub.audit()
        return code, sum(line["event"] == "knocked" for line in lines)

    def round(self, number):
        rng, together = self.rng, number % 5 == 4
        out = self.base / "out"
        shutil.rmtree(out, ignore_errors=True)
        limit = rng.choice([None, "10M"])
        # Never a file of the round before, which the relay may still hold.
        fresh = self.paths[number % 2::2]
        if together:
            same = rng.sample(fresh, FILES_EACH)
            wanted = [same] * RECEIVERS
        else:
            mixed = rng.sample(fresh, RECEIVERS * FILES_EACH)
            wanted = [mixed[at::RECEIVERS] for at in range(RECEIVERS)]
        gets = []
        for receiver, paths in enumerate(wanted):
            place = out / f"{receiver + 1}"
            place.mkdir(parents=True)
            gets += [Get(receiver, at, path, place, self.receivers[receiver], self.logs, limit) for at, path in enumerate(paths)]
        once = sum(self.sizes[path.rsplit("/", 1)[1]] for path in set(sum(wanted, [])))
        before = self.sent()
        watch = Watch(out, self.hashes)
        watch.start()
        for get in gets:
            get.start()
        # A command that finds no hub when it begins ends with 4, and says so: what is promised is about transfers.
        for get in gets:
            get.event("started")
        role, part = rng.choice(ROLES), rng.random()
        until("the point of the kill", lambda: self.sent() - before >= part * once or not any(get.runs for get in gets), ROUND_S, 0.001)
        at, killed_at = (self.sent() - before) / once, time.monotonic()
        ended = sum(not get.runs for get in gets)
        self.kill(role, gets, rng.uniform(0, AWAY_S))
        hung = []
        for get in gets:
            try:
                get.wait(max(1, ROUND_S - (time.monotonic() - killed_at)))
            except Late:
                hung.append(get)
                get.kill()
        took = time.monotonic() - killed_at
        watch.over.set()
        watch.join()
        watch.look()
        codes = [get.child.returncode for get in gets]
        good = [get.child.returncode == 0 and get.file.exists() and sha256(get.file) == self.hashes[get.file.name] for get in gets]
        left = [name for _, _, names in os.walk(out) for name in names if is_unfinished(name)]
        surplus = self.sent() - before - once
        said = [f"{get.file.name} ended with {get.child.returncode}: {get.said()}" for get, fine in zip(gets, good) if not fine]
        waiting = [row["name"] for row in self.hub.devices() if row["membership"] != "approved"]
        return dict(number=number + 1, role=role, at=at, ended=ended, took=took, together=together, limit=limit, hung=len(hung), good=sum(good),
                    broken=watch.broken, seen=len(watch.seen), looks=watch.looks, left=left, codes=codes, surplus=surplus, payload=once,
                    said=said, waiting=waiting)

    def lone_kill(self, number):
        """One transfer, one kill: what its owner sent beyond the file is what the kill cost it. Nothing is sent a second time
        but what was on its way: sent, until its owner heard of the death, and not in the receiver's unfinished file (which has
        holes where nothing came). Without the master it goes on, and nothing is."""
        path, role, limit = self.lone[number], ROLES[number % len(ROLES)], (None, "10M")[number // len(ROLES) % 2]
        place = self.base / "lone"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        before = self.sent()
        get = Get(0, f"lone-{number}", path, place, self.receivers[0], self.logs, limit)
        get.start()
        get.event("started")
        part = self.rng.uniform(0.05, 0.9)
        until("the point of the kill", lambda: self.sent() - before >= part * LONE_SIZE or not get.runs, ROUND_S, 0.001)
        # Of two owners the one that sends.
        under_way, owner = get.runs, self.owners[int(path.removeprefix("shared")[0]) - 1]
        stored, sent = self.stored(place), []
        self.kill(role, [get], self.rng.uniform(0, AWAY_S), owner, lambda: sent.append(self.sent() - before))
        get.wait(ROUND_S)
        good = get.child.returncode == 0 and sha256(get.file) == self.hashes[get.file.name]
        return dict(role=role, limit=limit, under_way=under_way, good=good, surplus=self.sent() - before - LONE_SIZE,
                    on_its_way=0 if role == "master" else sent[0] - stored)

    @staticmethod
    def stored(place):
        return sum(512 * one.stat().st_blocks for one in place.rglob("*") if one.is_file())

    def kill(self, role, gets, away, owner=None, before_start=lambda: None):
        if role == "receiver":
            running = sorted({get.receiver for get in gets if get.runs}) or [0]
            chosen = self.rng.choice(running)
            dead = [get for get in gets if get.receiver == chosen and get.runs]
        else:
            dead = {"relay": [self.hub.relay], "master": [self.hub.master], "owner": [owner or self.rng.choice(self.owners)]}[role]
        for process in dead:
            process.kill()
        time.sleep(away)
        before_start()
        for process in dead:
            process.start()
        for process in dead:
            if role in ("relay", "master"):
                process.event("ready")
            elif role == "owner":
                process.event("shared")


def panics(logs):
    return [path.name for path in sorted(logs.glob("*.err")) if "panicked" in path.read_text(errors="replace")]


def main():
    interruptible()
    seed, rng = seeded()
    base = folder("kills")
    report = Report("kills", "Kills", f"The real binary, built with the profile `proof`, on {machine()}. Relay, master, two owners and four receivers are "
                    "processes of their own. Each round fetches 20 files of 2 to 40 MiB at once, with a `lanyard get` each; when the owners have sent a random "
                    "part of it, one random role is killed with SIGKILL, stays away for up to a second, and is started again with the same command. "
                    f"Made by `tests/deep/kills`, seed {seed}.")
    crowd = Crowd(base, rng)
    knocks_at_first, rounds, singles = crowd.knocks()[1], [], []
    for number in range(LONE_KILLS):
        singles.append(crowd.lone_kill(number))
        print("alone:", singles[-1], flush=True)
    singles = [one for one in singles if one["under_way"]]
    started = time.monotonic()
    for number in range(ROUNDS):
        found = crowd.round(number)
        rounds.append(found)
        print(f"round {found['number']}: {found['role']} at {found['at']:.0%}, {found['good']} good, {found['took']:.1f} s after the kill, "
              f"surplus {found['surplus'] / MIB:.1f} MiB{' together' if found['together'] else ''}", *found["said"], flush=True)
    took = time.monotonic() - started
    code, knocks = crowd.knocks()
    alone = [one for one in rounds if not one["together"]]
    total = ROUNDS * RECEIVERS * FILES_EACH
    good = sum(one["good"] for one in rounds)
    broken = [path for one in rounds for path in one["broken"]]
    left = [name for one in rounds for name in one["left"]]
    waiting = sum(len(one["waiting"]) for one in rounds)
    worst = max((one["surplus"] for one in alone), default=0)
    shared = [one for one in rounds if one["together"]]
    times = [(one["surplus"] + one["payload"]) / one["payload"] for one in shared]
    report.promise("all transfers are completed, SHA-256 equal", good == total, f"{good} of {total}")
    report.promise("no file has its final name before it is whole", not broken,
                   f"{len(broken)} of {sum(one['seen'] for one in rounds)}, hashed when they appeared, in {sum(one['looks'] for one in rounds)} looks")
    report.promise("nothing unfinished is left behind", not left, f"{len(left)} files")
    report.promise("nobody is asked again", knocks == knocks_at_first == OWNERS + RECEIVERS and waiting == 0,
                   f"{knocks - knocks_at_first} new knocks, {waiting} waited")
    report.promise("the record is whole", code == 0, f"`lanyard audit` ends with {code}")
    report.promise(f"bytes sent again, at most {SURPLUS_BOUND // MIB} MiB a kill", worst <= SURPLUS_BOUND, f"{worst / MIB:.1f} MiB at most")
    dearest = max((one["surplus"] for one in singles), default=0)
    twice = [one for one in singles if one["surplus"] > one["on_its_way"] + SLACK]
    report.promise("a kill makes a transfer send nothing again but what was on its way, and that once",
                   len(singles) >= LONE_KILLS // 2 and not twice and all(one["good"] for one in singles),
                   f"{len(twice)} of {len(singles)} kills of a transfer that is alone; {dearest / MIB:.1f} MiB at most, "
                   f"{quantile([one['surplus'] / MIB for one in singles], 0.5):.1f} at the median")
    # Whoever is back first goes ahead; those who come later may have to ask alone.
    report.promise("what four want at once costs no more than if each came alone", all(one < RECEIVERS for one in times),
                   f"{max(times, default=0):.2f} times its size at most, {quantile(times, 0.5):.2f} at the median")
    panicked = panics(crowd.logs)
    report.promise("no process panicked", not panicked, ", ".join(panicked) or "none")
    rows = []
    for role in ROLES:
        mine = [one for one in rounds if one["role"] == role]
        lone = [one["surplus"] / MIB for one in mine if not one["together"]]
        took_s = [one["took"] for one in mine]
        if mine:
            rows.append([role, len(mine), sum(one["good"] for one in mine), f"{quantile(took_s, 0.5):.1f} s", f"{max(took_s):.1f} s",
                         f"{quantile(lone, 0.5):.1f} MiB" if lone else "–", f"{max(lone):.1f} MiB" if lone else "–"])
    lone_rows = []
    for role in ROLES:
        for limit in (None, "10M"):
            mine = [one for one in singles if (one["role"], one["limit"]) == (role, limit)]
            if mine:
                sent, way = ([one[what] / MIB for one in mine] for what in ("surplus", "on_its_way"))
                lone_rows.append([role, f"{limit}iB/s" if limit else "as fast as it goes", len(mine), f"{quantile(way, 0.5):.1f} MiB",
                                  f"{quantile(sent, 0.5):.1f} MiB", f"{max(sent):.1f} MiB"])
    report.say(f"## One transfer of {LONE_SIZE // MIB} MiB, one kill\n\n"
               + table(["Killed", "receiver", "kills", "on its way, p50", "sent again, p50", "most"], lone_rows))
    payload = sum(one["payload"] for one in alone)
    report.say(f"## By role\n\n{ROUNDS} rounds, {took:.0f} s. From the kill until all 20 were there, and what owners sent beyond the files' bytes "
               "(rounds in which each file is wanted once):\n\n"
               + table(["Killed", "rounds", "completed", "p50", "longest", "sent again, p50", "most"], rows)
               + f"\nIn all of these, {sum(one['surplus'] for one in alone) / MIB:.0f} MiB were sent beyond {payload / MIB:.0f} MiB: "
               f"{sum(one['surplus'] for one in alone) / payload:.2%}, {sum(one['surplus'] for one in alone) / MIB / max(1, len(alone)):.1f} MiB a kill.\n")
    report.say("## Each round\n\n" + table(
        ["Round", "killed", "after", "done by then", "then took", "completed", "payload", "sent again", ""],
        [[one["number"], one["role"], f"{one['at']:.0%}", one["ended"], f"{one['took']:.1f} s", one["good"], f"{one['payload'] / MIB:.0f} MiB",
          f"{one['surplus'] / MIB:.1f} MiB", ", ".join(word for word in ("the same five files" if one["together"] else "",
                                                                          f"{one['limit']}iB/s each" if one["limit"] else "") if word)]
         for one in rounds]))
    troubles = [line for one in rounds for line in one["said"]]
    if troubles:
        report.say("## What went wrong\n\n```\n" + "\n".join(troubles) + "\n```\n")
    report.end()


main()
