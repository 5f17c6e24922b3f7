"""Decisions under kill -9: a device knocks or is in, the host's command is on its way, and the hub dies within milliseconds.

Started again, the hub must hold the whole decision or nothing of it: on its disk, in its list of devices, in its record, and
in what the device sees. What the command called done is done.
"""
from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import threading
import time
import traceback
from collections import Counter

from harness import (BINARY, NOT_APPROVED, Hub, Late, Process, Report, call, folder, interruptible, machine, seeded, table, until,
                     write_random)

CASES = int(os.environ.get("LANYARD_DECISIONS", "200"))
# Most of a command is over after some milliseconds: half of the kills come within these.
LATEST_S, SOON_S = 0.030, 0.012
VERBS = ("approve", "refuse, who knocks", "refuse, who is in")
ON_DISK = {None: "unknown", 0: "approved", 1: "refused"}
# In the list of devices, and here.
STANDS = {"pending": "pending", "approved": "approved", "disapproved": "refused"}


class Desk:
    """One hub, and all that is decided there, one after the other."""

    def __init__(self, base, halves, rng):
        self.halves, self.rng, self.what = halves, rng, "master" if halves else "hub"
        self.base = base / self.what
        self.logs = self.base / "logs"
        self.logs.mkdir(parents=True)
        write_random(self.base / "listed" / "listed.bin", 1000, rng)
        self.hub = Hub(self.base, self.logs, halves, master_args=[self.base / "listed"]).start()
        self.results = []

    def on_disk(self, public_id):
        """What a program reads that knows only the database."""
        connection = sqlite3.connect(f"file:{self.hub.data}/lanyard.db?mode=ro", uri=True, timeout=10)
        try:
            row = connection.execute("SELECT refused FROM members WHERE public_id = ?", (bytes.fromhex(public_id.replace("-", "")),)).fetchone()
            return ON_DISK[row[0] if row else None]
        finally:
            connection.close()

    def in_record(self, public_id):
        """The last decision in audit.log, and whether the record is whole."""
        code, lines = self.hub.audit()
        mine = [line["event"] for line in lines if line and line.get("public_id") == public_id and line["event"] in ("approved", "refused")]
        return code, mine[-1] if mine else "unknown"

    def sees(self, data):
        """What the device gets when it asks for the list."""
        code, lines, said = call(data, "ls", self.hub.url)
        if code == 0:
            return "the list" if any(row["path"] == "listed/listed.bin" for row in lines[-1]) else "an empty list"
        return "nothing" if code == NOT_APPROVED else f"{code}: {said.strip()}"

    def case(self, number, verb):
        name = f"Device {number}"
        data = self.base / f"device{number}"
        if verb == VERBS[2]:
            self.hub.admit(name, data, self.logs)
            own = self.base / f"own{number}"
            write_random(own / "own.bin", 1000, self.rng)
            device = Process(f"share-{number}", data, ["share", own], self.logs).start()
            device.event("shared")
            row = self.hub.device(name)
        else:
            device = Process(f"join-{number}", data, ["join", self.hub.url, "--name", name], self.logs).start()
            row = self.hub.pending(name)
        public_id, before = row["public_id"], row["membership"]
        word = "approve" if verb == VERBS[0] else "refuse"
        code = ["--code", row["code"]] if word == "approve" else []
        wait = self.rng.uniform(0, LATEST_S if number % 2 == 0 else SOON_S)
        command = subprocess.Popen([BINARY, "--data", str(self.hub.data), "--json", word, public_id, *code], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(wait)
        self.hub.master.kill()
        out, said = command.communicate(timeout=60)
        claimed = command.returncode == 0 and b'"ok":true' in out
        self.hub.start()
        now = self.settled(name, device, verb)
        expected = {"approve": "approved", "refuse": "refused"}[word]
        faults = self.faults(public_id, data, device, before, now, verb, expected, claimed)
        record = self.record(public_id, before, now)
        if now == before:
            faults += self.again(name, word, data, device, expected)
        device.stop()
        return dict(number=number, what=self.what, verb=verb, wait=wait, claimed=claimed, code=command.returncode, now=now, before=before,
                    faults=faults, record=record, said=said.decode(errors="replace").strip())

    def settled(self, name, device, verb):
        """Where the device stands once the hub is back: in, turned away, or at the door with its digits."""

        def stands():
            membership = self.membership(name)
            if membership == "pending":
                # The digits are there once the device has come back to the door.
                return membership if self.hub.device(name).get("code") else None
            if membership == "approved" and verb == VERBS[2]:
                return membership if self.hub.device(name)["presence"] == "online" else None
            return membership if membership and not device.runs else None

        try:
            return until(f"{name} stands somewhere", stands, every=0.02)
        except Late:
            return f"{self.hub.device(name)}, its command {'runs' if device.runs else device.child.returncode}"

    def membership(self, name):
        row = self.hub.device(name)
        return row and STANDS[row["membership"]]

    def faults(self, public_id, data, device, before, now, verb, expected, claimed):
        found = []
        if now not in (before, expected):
            found.append(f"it was {before}, is now {now}")
        if claimed and now != expected:
            found.append(f"the command said done, but it is {now}")
        disk = self.on_disk(public_id)
        if disk != {"pending": "unknown"}.get(now, now):
            found.append(f"it is {now}, on disk {disk}")
        sees = self.sees(data)
        if sees != ("the list" if now == "approved" else "nothing"):
            found.append(f"it is {now} and sees {sees}")
        ended = None if device.runs else device.child.returncode
        wanted = {"pending": None, "refused": NOT_APPROVED, "approved": None if verb == VERBS[2] else 0}.get(now)
        if ended != wanted:
            found.append(f"it is {now}, its command {'runs' if ended is None else f'ended with {ended}'}")
        listed = any(row["owner"] == public_id for row in self.hub.files())
        if verb == VERBS[2] and listed != (now == "approved"):
            found.append(f"it is {now}, its file {'is' if listed else 'is not'} listed")
        return found

    def record(self, public_id, before, now):
        """Whether audit.log is whole, and whether it tells what is true."""
        code, last = self.in_record(public_id)
        return dict(whole=code == 0, agrees=last == {"pending": "unknown"}.get(now, now), last=last)

    def again(self, name, word, data, device, expected):
        """What was not decided can be decided still."""
        row = self.hub.device(name)
        code, _, said = call(self.hub.data, word, row["public_id"], *(["--code", row["code"]] if word == "approve" else []))
        if code != 0:
            return [f"{word} ended with {code} when it was said again: {said.strip()}"]
        until("the second word holds", lambda: self.membership(name) == expected)
        ended = device.wait()
        if ended != (0 if expected == "approved" else NOT_APPROVED):
            return [f"after the second word its command ended with {ended}"]
        sees = self.sees(data)
        return [] if sees == ("the list" if expected == "approved" else "nothing") else [f"after the second word it sees {sees}"]

    def run(self, count):
        for number in range(count):
            verb = VERBS[0] if number % 4 < 2 else VERBS[1 + number % 4 - 2]
            try:
                self.results.append(self.case(number, verb))
            except (Late, OSError, subprocess.TimeoutExpired, sqlite3.Error):
                self.results.append(dict(number=number, what=self.what, verb=verb, wait=0, claimed=False, code=None, now="?", before="?",
                                         faults=[traceback.format_exc()], record=dict(whole=False, agrees=False, last="?"), said=""))
                self.hub.start()
            one = self.results[-1]
            print(f"{self.what} {number} {verb}: {one['wait'] * 1000:.1f} ms, code {one['code']}, {one['before']} -> {one['now']}, "
                  f"record {one['record']['last']}", *one["faults"], flush=True)


def main():
    interruptible()
    seed, rng = seeded()
    base = folder("decisions")
    desks = [Desk(base, halves, random.Random(rng.random())) for halves in (True, False)]
    threads = [threading.Thread(target=desk.run, args=(CASES // 2,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [one for desk in desks for one in desk.results]
    report = Report("decisions", "Decisions", f"The real binary, built with the profile `proof`, on {machine()}. A device knocks, or is in and shares a file; "
                    f"`lanyard approve` or `lanyard refuse` is started, and up to {LATEST_S * 1000:.0f} ms later the master (of a hub in two processes) or the "
                    "whole hub is killed with SIGKILL, then started again. Where the device stands is asked of the database, of `lanyard devices`, of "
                    f"`lanyard audit`, of the command that runs on the device, and of a new one. Made by `tests/deep/decisions`, seed {seed}.")
    faulty = [one for one in results if one["faults"]]
    claimed = [one for one in results if one["claimed"]]
    report.promise("a decision is whole or did not happen", not faulty and len(results) == CASES // 2 * 2, f"{len(faulty)} of {len(results)} were neither")
    lost = [one for one in claimed if one["now"] == one["before"]]
    report.promise("what the command called done is done", not lost, f"{len(claimed) - len(lost)} of {len(claimed)}")
    report.promise("the record is whole", all(one["record"]["whole"] for one in results),
                   f"`lanyard audit` ended with 0 {sum(one['record']['whole'] for one in results)} times of {len(results)}")
    silent = [one for one in results if not one["record"]["agrees"] and one["now"] in STANDS.values()]
    report.promise("the record tells every decision", not silent, f"{len(silent)} of {sum(one['now'] != one['before'] for one in results)} are on disk and not in the record")
    panicked = [path.name for desk in desks for path in desk.logs.glob("*.err") if "panicked" in path.read_text(errors="replace")]
    report.promise("no process panicked", not panicked, ", ".join(panicked) or "none")
    rows = []
    for what in ("master", "hub"):
        for verb in VERBS:
            mine = [one for one in results if one["what"] == what and one["verb"] == verb]
            ends = Counter("said done" if one["claimed"] else "made, not said" if one["now"] != one["before"] else "not made" for one in mine)
            rows.append([what, verb, len(mine), ends["said done"], ends["made, not said"], ends["not made"],
                         sum(bool(one["faults"]) for one in mine), sum(one in silent for one in mine)])
    report.say("## By kind\n\n" + table(["Killed", "command", "times", "done, and said so", "done, not said", "not done", "neither", "missing in the record"], rows))
    if faulty or silent:
        lines = [f"{one['what']} {one['number']} ({one['verb']}, {one['wait'] * 1000:.1f} ms): {one['before']} → {one['now']}, record: {one['record']['last']}"
                 + "".join(f"; {fault}" for fault in one["faults"]) for one in faulty + [one for one in silent if not one["faults"]]]
        report.say("## What went wrong\n\n```\n" + "\n".join(lines) + "\n```\n")
    report.end()


main()
