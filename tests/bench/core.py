"""The measuring core: processes with their CPU and memory, timed regions, test data and its verification."""
from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
GIB = 1 << 30
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SAMPLE_S = 0.04
# Other names under which a tool may be installed.
ALIASES = {"chromium": ["chromium-browser", "google-chrome", "google-chrome-stable"]}


# ---------------------------------------------------------------- /proc
def cpu_of(pid: int) -> float:
    """User and system time of a process and of its children that ended, in seconds; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            text = f.read()
    except OSError:
        return 0.0
    # The name may hold spaces and brackets: fields are counted from behind it.
    fields = text[text.rindex(")") + 2:].split()
    return sum(int(x) for x in fields[11:15]) / TICK


def children_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                found += [int(x) for x in f.read().split()]
    return found


def tree(pid: int) -> list[int]:
    seen, todo = [], [pid]
    while todo:
        p = todo.pop()
        seen.append(p)
        todo += children_of(p)
    return seen


def memory_of(pid: int) -> tuple[int, int]:
    """Peak and present resident bytes."""
    peak = now = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
            elif line.startswith("VmRSS:"):
                now = int(line.split()[1]) * 1024
                break
    return peak, now


def loopback_bytes() -> int:
    with open("/proc/net/dev") as f:
        for line in f:
            if line.strip().startswith("lo:"):
                return int(line.split(":")[1].split()[0])
    return 0


# ---------------------------------------------------------------- one process under measurement
class Proc:
    """A started program with all its children; its output goes to a log, or to us with `pipe`."""

    def __init__(self, role: str, argv, log: Path, cwd=None, env=None, pipe=False):
        self.role, self.argv, self.log = role, [str(a) for a in argv], log
        self.errors = Path(f"{log}.err")
        self.peaks: dict[int, int] = {}
        self.final: float | None = None
        self.rc: int | None = None
        out = subprocess.PIPE if pipe else open(log, "ab")
        self.p = subprocess.Popen(self.argv, cwd=cwd, env=env, stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                                  stdout=out, stderr=open(self.errors, "ab"), start_new_session=True)
        if not pipe:
            out.close()
        self.pid = self.p.pid

    def said(self) -> str:
        return f"{self.log.read_text(errors='replace')[-300:]} {self.errors.read_text(errors='replace')[-600:]}"

    def cpu(self) -> float:
        return self.final if self.final is not None else sum(cpu_of(p) for p in tree(self.pid))

    def rss(self) -> int:
        return sum(memory_of(p)[1] for p in tree(self.pid))

    def sample(self):
        if self.final is None:
            for p in tree(self.pid):
                self.peaks[p] = max(self.peaks.get(p, 0), memory_of(p)[0])

    def peak(self) -> int:
        return sum(self.peaks.values())

    def poll(self):
        """Reaps by hand, so that the kernel's own account of the finished process is read."""
        if self.final is None:
            try:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.final, self.rc = 0.0, -1
                return self.rc
            if pid:
                self.final = usage.ru_utime + usage.ru_stime
                self.rc = self.p.returncode = os.waitstatus_to_exitcode(status)
                if not any(self.peaks.values()):  # It ended between two samples.
                    self.peaks = {self.pid: usage.ru_maxrss * 1024}
        return self.rc

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        nap = 0.001
        while self.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.role}: {os.path.basename(self.argv[0])} ran past {timeout:.0f} s")
            time.sleep(nap)
            nap = min(nap * 1.3, 0.01)
        return self.rc

    def stop(self):
        if self.poll() is not None:
            return
        pids = tree(self.pid)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for p in pids:
                with contextlib.suppress(OSError):
                    os.kill(p, sig)
            end = time.monotonic() + 3
            while self.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            if self.poll() is not None:
                break
        for p in pids[1:]:
            with contextlib.suppress(OSError):
                os.kill(p, signal.SIGKILL)


# ---------------------------------------------------------------- one run of one contender
class Run:
    """All processes of one run, by role, with what was measured of them. Without `samples` nobody looks at their memory: looking
    takes the interpreter from who takes times of a tenth of a millisecond, the more the more processes there are."""

    def __init__(self, tmp: Path, tools: dict, samples=True):
        self.tmp, self.tools = tmp, tools
        self.procs: list[Proc] = []
        self.regions: dict[str, dict] = {}
        self.extra: dict = {}
        self.idle: dict[str, int] = {}
        self._stop = threading.Event()
        self._sampling = threading.Thread(target=self._sampler, daemon=True)
        if samples:
            self._sampling.start()

    def _sampler(self):
        while not self._stop.wait(SAMPLE_S):
            for p in list(self.procs):
                p.sample()

    def tool(self, name: str) -> str:
        return find_tool(self.tools, name)

    def dir(self, name: str) -> Path:
        d = self.tmp / name
        d.mkdir(parents=True, exist_ok=True)
        return d

    def spawn(self, role, argv, ready: str | None = None, port: int | None = None, cwd=None, env=None, timeout=30.0, pipe=False) -> Proc:
        """Starts a process; returns when its output matches `ready`, or when it listens on `port`."""
        log = self.dir("log") / f"{len(self.procs)}-{role}.log"
        log.touch()
        p = Proc(role, argv, log, cwd=cwd, env={**os.environ, **(env or {})}, pipe=pipe)
        self.procs.append(p)
        end = time.monotonic() + timeout
        if ready:
            p.match = self._await_log(p, ready, end)
        if port:
            self._await_port(p, port, end)
        return p

    def _await_log(self, p: Proc, pattern: str, end: float):
        while True:
            for f in (p.log, p.errors):
                if found := re.search(pattern, f.read_text(errors="replace")):
                    return found
            self._still(p, "not ready", end)

    def _await_port(self, p: Proc, port: int, end: float):
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                self._still(p, "not listening", end)

    @staticmethod
    def _still(p: Proc, trouble: str, end: float):
        if p.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{p.role} {trouble}: {p.said()}")
        time.sleep(0.01)

    def command(self, argv) -> str:
        """Runs to its end outside of all accounts, and returns what it printed."""
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{os.path.basename(str(argv[0]))} ended with {done.returncode}: {done.stderr[-600:]}")
        return done.stdout

    def role(self, name: str) -> list[Proc]:
        return [p for p in self.procs if p.role == name]

    def note_idle(self, settle=0.4):
        time.sleep(settle)
        for p in self.procs:
            if p.final is None:
                self.idle[p.role] = self.idle.get(p.role, 0) + p.rss()

    @contextlib.contextmanager
    def timed(self, name: str, payload: int):
        """The user's wait. Regions may lie in one another. `wall` set in what is yielded replaces our clock."""
        before = {id(p): p.cpu() for p in self.procs}
        lo, start = loopback_bytes(), time.perf_counter()
        own: dict = {}
        yield own
        wall = own.get("wall") or time.perf_counter() - start
        cpu: dict[str, float] = {}
        for p in list(self.procs):
            cpu[p.role] = cpu.get(p.role, 0.0) + p.cpu() - before.get(id(p), 0.0)
            p.sample()
        self.regions[name] = dict(wall_s=wall, payload=payload, cpu=cpu, cpu_s=sum(cpu.values()), lo=loopback_bytes() - lo)

    def join(self, procs, timeout=3600.0):
        """Waits for all; one that fails is an error with its last words."""
        for p in procs:
            if p.wait(timeout) != 0:
                raise RuntimeError(f"{p.role} {os.path.basename(p.argv[0])} ended with {p.rc}: {p.said()}")

    def result(self) -> dict:
        peak: dict[str, int] = {}
        count: dict[str, int] = {}
        for p in self.procs:
            peak[p.role] = peak.get(p.role, 0) + p.peak()
            count[p.role] = count.get(p.role, 0) + 1
        return dict(regions=self.regions, peak_rss=peak, procs=count, idle_rss=self.idle, extra=self.extra)

    def close(self):
        self._stop.set()
        if self._sampling.is_alive():
            self._sampling.join()
        for p in reversed(self.procs):
            p.stop()
        shutil.rmtree(self.tmp, ignore_errors=True)


# ---------------------------------------------------------------- test data and its verification
class WrongBytes(RuntimeError):
    """What arrived is not what was sent: never a figure, always a failure."""


def make_file(path: Path, size: int, seed: int) -> dict:
    r = random.Random(seed)
    h = hashlib.sha256()
    with open(path, "wb") as f:
        left = size
        while left:
            b = r.randbytes(min(left, MIB))
            h.update(b)
            f.write(b)
            left -= len(b)
    return dict(path=path, size=size, sha256=h.hexdigest())


def make_hole(path: Path, size: int) -> dict:
    """A file of nothing, for sizes that neither memory nor disk would hold twice."""
    h, left, block = hashlib.sha256(), size, bytes(MIB)
    while left:
        h.update(block[:min(left, MIB)])
        left -= min(left, MIB)
    with open(path, "wb") as f:
        f.truncate(size)
    return dict(path=path, size=size, sha256=h.hexdigest())


def make_tree(path: Path, n: int, each: int, seed: int) -> dict:
    r = random.Random(seed)
    for i in range(n):
        d = path / f"d{i // 100:03d}"
        d.mkdir(parents=True, exist_ok=True)
        (d / f"f{i:05d}.bin").write_bytes(r.randbytes(each))
    return dict(path=path, size=n * each, n=n, sha256=tree_hash(path))


def file_hash(path: Path) -> str:
    with open(path, "rb", buffering=0) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tree_hash(path: Path) -> str:
    h = hashlib.sha256()
    for name in sorted(p.relative_to(path).as_posix() for p in Path(path).rglob("*.bin")):
        h.update(name.encode() + b"\0" + (Path(path) / name).read_bytes())
    return h.hexdigest()


def check_file(path: Path, data: dict):
    if (n := os.path.getsize(path)) != data["size"]:
        raise WrongBytes(f"{n} instead of {data['size']} bytes")
    if file_hash(path) != data["sha256"]:
        raise WrongBytes("the sha256 differs")


def check_tree(path: Path, data: dict):
    if tree_hash(path) != data["sha256"]:
        raise WrongBytes("the folder differs")


def digest_list(data: dict) -> str:
    """sha256 over the sha256 of each MiB: what a page can compute as it reads (`browser/digest.js`)."""
    if "digests" not in data:
        h = hashlib.sha256()
        with open(data["path"], "rb") as f:
            while b := f.read(MIB):
                h.update(hashlib.sha256(b).digest())
        data["digests"] = h.hexdigest()
    return data["digests"]


# ---------------------------------------------------------------- small help
def find_tool(tools: dict, name: str) -> str:
    """The path of a program: from the user's table, else from PATH; the bare name when there is none."""
    if name in tools:
        path = os.path.expanduser(os.path.expandvars(tools[name]))
        return shutil.which(path) or path
    return next(filter(None, map(shutil.which, [name, *ALIASES.get(name, [])])), name)


def free_port() -> int:
    """A loopback port that is free right now, from below the range that the kernel gives to clients."""
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


def raise_file_limit():
    """A thousand clients are a thousand descriptors, here and in what we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def med(xs):
    return statistics.median(xs)


def percentiles(xs) -> dict:
    """Median, 99th percentile and maximum of seconds, in milliseconds."""
    xs = sorted(xs)
    return dict(p50_ms=xs[len(xs) // 2] * 1e3, p99_ms=xs[max(0, int(len(xs) * .99) - 1)] * 1e3, max_ms=xs[-1] * 1e3)


def size_of(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.lstat(os.path.join(d, f)).st_size for d, _, fs in os.walk(path) for f in fs)
