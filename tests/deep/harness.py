"""The real binary under faults: processes that can be killed and started again, what /proc knows of them, and a report.

For the Python programs beside this file. The binary is the one that LANYARD_BIN names; tests/deep/hub.sh finds it.
"""
from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BINARY = os.environ["LANYARD_BIN"]
REPORTS = Path(__file__).resolve().parent / "reports"
KIB, MIB = 1 << 10, 1 << 20
PATIENCE_S = 60
EVERY_S = 0.01
# What an unfinished file is called beside its name-to-be.
UNFINISHED = (".lanyard-part", ".lanyard-have")
NOT_APPROVED = 3

_living: set[subprocess.Popen] = set()


@atexit.register
def _leave_nothing():
    """A hub that outlives its test would hold its port and its memory."""
    for child in list(_living):
        if child.poll() is None:
            child.kill()
            child.wait()


def interruptible():
    """Ends by a signal as by an exception, so that nothing is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Late(Exception):
    """A condition that did not come about in time."""


def until(what, check, seconds=PATIENCE_S, every=EVERY_S):
    """What `check` returns, once that is true."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise Late(f"after {seconds} s still not: {what}")
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def folder(name: str) -> Path:
    """A directory that is gone when the program ends."""
    path = Path(tempfile.mkdtemp(prefix=f"lanyard-{name}-", dir=os.environ.get("LANYARD_DEEP_TMP")))
    if not os.environ.get("LANYARD_DEEP_KEEP"):
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def seeded(variable="LANYARD_SEED"):
    """One source of chance; its seed plays the same kills again, as far as machines repeat themselves."""
    seed = int(os.environ.get(variable) or random.SystemRandom().randrange(1 << 32))
    return seed, random.Random(seed)


# ---------------------------------------------------------------- files
def write_random(path: Path, size: int, rng: random.Random) -> str:
    """A file of chance and its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        left = size
        while left > 0:
            block = rng.randbytes(min(left, MIB))
            digest.update(block)
            file.write(block)
            left -= len(block)
    return digest.hexdigest()


def sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unfinished(name: str) -> bool:
    return name.endswith(UNFINISHED)


# ---------------------------------------------------------------- /proc
def rss(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIB
    raise ProcessLookupError(pid)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        # The name may hold spaces and brackets: fields are counted from behind it.
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written(pid: int) -> int:
    """Bytes that a process has written, to sockets and files; readable until somebody has waited for it."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        for line in file:
            if line.startswith("wchar:"):
                return int(line.split()[1])
    raise ProcessLookupError(pid)


# ---------------------------------------------------------------- the binary
class Process:
    """`lanyard ARGUMENT…` in the background. What it prints is JSON lines, in a file that all of its lives share."""

    def __init__(self, name: str, data: Path, args: list, logs: Path, wrap: list | None = None, env: dict | None = None):
        self.name = name
        self.command = [*(wrap or []), BINARY, "--data", str(data), "--json", *map(str, args)]
        self.out, self.err = logs / f"{name}.out", logs / f"{name}.err"
        self.env = {**os.environ, **(env or {})}
        self.child: subprocess.Popen | None = None
        self.since = self.since_err = 0
        self.lives = 0
        self.written_before = 0

    def start(self):
        assert self.child is None or self.child.returncode is not None, f"{self.name} still runs"
        self.since = self.out.stat().st_size if self.out.exists() else 0
        self.since_err = self.err.stat().st_size if self.err.exists() else 0
        self.lives += 1
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.env)
        _living.add(self.child)
        return self

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def kill(self):
        """SIGKILL; what it wrote in this life is read before the system forgets it."""
        if self.child is None or self.child.returncode is not None:
            return
        os.kill(self.child.pid, signal.SIGKILL)
        # A zombie keeps its counters.
        os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        self.written_before += written(self.child.pid)
        self.child.wait()
        _living.discard(self.child)

    def written(self) -> int:
        """In all lives."""
        return self.written_before + (written(self.pid) if self.child.returncode is None else 0)

    def stop(self, seconds=PATIENCE_S):
        if self.runs:
            self.child.terminate()
            self.child.wait(seconds)
        _living.discard(self.child)

    def wait(self, seconds=PATIENCE_S) -> int:
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Late(f"{self.name} has not ended after {seconds} s; it said last: {self.said()}") from None
        _living.discard(self.child)
        return code

    def events(self) -> list[dict]:
        """The whole lines of this life."""
        with open(self.out, "rb") as file:
            file.seek(self.since)
            lines = file.read().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def event(self, name: str, seconds=PATIENCE_S) -> dict:
        def found():
            fits = next((one for one in self.events() if one.get("event") == name), None)
            if fits is None and not self.runs:
                raise Late(f"{self.name} ended with {self.child.returncode} before it said {name}: {self.said()}")
            return fits

        return until(f"{self.name} says {name}", found, seconds)

    def said(self) -> str:
        return self.err.read_text(errors="replace")[-600:] if self.err.exists() else ""


def call(data: Path, *args, seconds=PATIENCE_S):
    """`lanyard ARGUMENT…` to its end: its code, the lines it printed, and what it said to people."""
    done = subprocess.run([BINARY, "--data", str(data), "--json", *map(str, args)], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=seconds, check=False)
    lines = [json.loads(line) for line in done.stdout.split(b"\n") if line]
    return done.returncode, lines, done.stderr.decode(errors="replace")


class Hub:
    """A hub, in one process or in two that share a data directory."""

    def __init__(self, base: Path, logs: Path, halves: bool, master_args=(), relay_args=(), env: dict | None = None, name="hub"):
        self.data, self.port = base / name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        listen, called = ["--listen", f"127.0.0.1:{self.port}", *relay_args], ["--name", "Hub"]
        if halves:
            self.relay = Process(f"{name}-relay", self.data, ["relay", *listen, *called], logs, env=env)
            self.master = Process(f"{name}-master", self.data, ["master", "--headless", "--relay", self.url, *called, *master_args], logs, env=env)
        else:
            self.relay = self.master = Process(name, self.data, ["serve", "--headless", *listen, *called, *master_args], logs, env=env)

    def start(self):
        if not self.relay.runs:
            self.relay.start().event("ready")
        if not self.master.runs:
            self.master.start().event("ready")
        return self

    def stop(self):
        self.master.stop()
        self.relay.stop()

    def get(self, path: str, seconds=PATIENCE_S, headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        token = (self.data / "metrics.token").read_text()
        text = self.get("/metrics", headers={"Authorization": f"Bearer {token}"})[1].decode()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and line[0] != "#"}

    def devices(self) -> list[dict]:
        code, lines, said = call(self.data, "devices")
        if code != 0:
            raise Late(f"devices ended with {code}: {said}")
        return lines[-1]

    def device(self, name: str) -> dict | None:
        return next((row for row in self.devices() if row["name"] == name), None)

    def files(self) -> list[dict]:
        code, lines, said = call(self.data, "files")
        if code != 0:
            raise Late(f"files ended with {code}: {said}")
        return lines[-1]

    def audit(self) -> tuple[int, list[dict]]:
        code, lines, _ = call(self.data, "audit")
        return code, lines

    def pending(self, name: str) -> dict:
        def knock():
            row = self.device(name)
            return row if row and row["membership"] == "pending" and row.get("code") else None

        return until(f"{name} knocks and shows its digits", knock)

    def admit(self, name: str, data: Path, logs: Path) -> str:
        """Joins a device and lets it in by the digits that it shows."""
        joining = Process(f"join-{name}", data, ["join", self.url, "--name", name], logs).start()
        row = self.pending(name)
        code, _, said = call(self.data, "approve", row["public_id"], "--code", row["code"])
        if code != 0:
            raise Late(f"approve ended with {code}: {said}")
        if joining.wait() != 0:
            raise Late(f"join ended badly: {joining.said()}")
        return row["public_id"]


# ---------------------------------------------------------------- the report
def table(columns: list[str], rows: list[list]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def quantile(values, part: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)] if ordered else float("nan")


class Report:
    """Promises, each kept or broken, and the text around them."""

    def __init__(self, name: str, title: str, about: str):
        self.name, self.parts, self.kept = name, [f"# {title}\n\n{about}\n"], []
        self.lock = threading.Lock()

    def say(self, text: str):
        self.parts.append(text.rstrip("\n") + "\n")

    def promise(self, what: str, kept: bool, found: str):
        with self.lock:
            self.kept.append((what, kept, found))
        print(f"{'ok    ' if kept else 'BROKEN'} {what}: {found}", flush=True)

    def end(self):
        rows = [[what, found, "kept" if kept else "**broken**"] for what, kept, found in self.kept]
        self.parts.insert(1, table(["Promise", "Found", ""], rows))
        failed = sum(not kept for _, kept, _ in self.kept)
        text = "\n".join(self.parts)
        (REPORTS / f"{self.name}.md").write_text(text, encoding="utf-8")
        print(text)
        print(f"{len(self.kept) - failed} passed, {failed} failed", flush=True)
        sys.exit(1 if failed else 0)


def machine() -> str:
    return f"one machine with {os.cpu_count()} processors"
