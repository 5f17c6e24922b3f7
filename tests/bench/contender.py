"""What a contender is, and the receivers and probes that several of them share."""
from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import time

from core import find_tool, size_of

CURL = ["-sS", "--fail", "--noproxy", "*"]
COLD, WARM = 40, 150


class Contender:
    """A program to be measured. Each scenario it names is a method of that name: it starts what it needs, puts the user's
    wait into `run.timed`, and checks what arrived."""

    name = "?"
    needs: list[str] = []
    scenarios: set[str] = set()
    # Whether its receivers of a fan-out can be slowed down.
    can_slow = False

    def __init__(self, tools: dict):
        self.tools = tools

    def tool(self, name: str) -> str:
        return find_tool(self.tools, name)

    def missing(self) -> str | None:
        """What is not installed; None when it can run."""
        return next((n for n in self.needs if not os.path.exists(self.tool(n))), None)

    def version(self) -> str:
        return first_line([self.tool(self.needs[0]), "--version"])

    def size(self) -> int:
        return size_of(os.path.realpath(self.tool(self.needs[0])))

    def reps(self, scenario: str, wished: int) -> int:
        """Fewer rounds for what is slow and steady."""
        return wished


def first_line(argv) -> str:
    """The first line with a digit that a program says about itself."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"? ({type(e).__name__})"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if any(c.isdigit() for c in line)]
    return lines[0][:90] if lines else "?"


def curl_get(run, url, out, insecure=False, rate: int | None = None):
    """curl as the receiver; `rate` in bytes a second makes it a slow one."""
    extra = (["-k"] if insecure else []) + (["--limit-rate", rate] if rate else [])
    return run.spawn("receiver", [run.tool("curl"), *CURL, *extra, "-o", out, url])


def fan_out(run, size: int, n: int, start, slow_rate):
    """`start(i, rate)` starts receiver i. With a rate the last one is slow, and the wait of the quick ones is a region of its own;
    with a list of rates each receiver has the next of them, and each rate is a region."""
    if isinstance(slow_rate, list):
        return fan_out_limited(run, size, [slow_rate[i % len(slow_rate)] for i in range(n)], start)
    if not slow_rate:
        with run.timed("download", size * n):
            run.join([start(i, None) for i in range(n)])
        return
    with run.timed("until the slow one", size * n):
        with run.timed("quick ones", size * (n - 1)):
            slow = start(n - 1, slow_rate)
            run.join([start(i, None) for i in range(n - 1)])
        run.join([slow])


def fan_out_limited(run, size: int, rates: list[int], start):
    """All receivers at once, each with its rate; how long the last of each rate took."""
    began = time.perf_counter()
    procs = [start(i, rate) for i, rate in enumerate(rates)]
    took = {}
    with run.timed("all", size * len(rates)):
        while len(took) < len(procs):
            for i, proc in enumerate(procs):
                if i not in took and proc.poll() is not None:
                    took[i] = time.perf_counter() - began
            time.sleep(0.005)
        run.join(procs)
    for rate in sorted(set(rates), reverse=True):
        of_rate = [took[i] for i in range(len(rates)) if rates[i] == rate]
        with run.timed(f"at {rate / (1 << 20):.3g} MiB/s", size * len(of_rate)) as own:
            own["wall"] = max(of_rate)


def time_to_bytes(port: int, path: str, size: int, tls=False) -> dict:
    """ms to the first body byte and to the last one. first: the very first request, which finds nothing prepared; cold: each on
    a new connection; warm: later requests on one connection."""
    first, *cold = [on_new_connection(port, path, size, tls) for _ in range(COLD + 1)]
    connection = connect(port, tls)
    request(connection, path, size)
    warm = [request(connection, path, size) for _ in range(WARM)]
    connection.close()
    return {"first": spread([first]), "cold": spread(cold), "warm": spread(warm)}


def connect(port, tls):
    if tls:
        return http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context())
    return http.client.HTTPConnection("127.0.0.1", port)


def on_new_connection(port, path, size, tls):
    start = time.perf_counter()
    connection = connect(port, tls)
    took = request(connection, path, size, start)
    connection.close()
    return took


def request(connection, path, size, start=None):
    start = start or time.perf_counter()
    connection.request("GET", path)
    response = connection.getresponse()
    head = response.read(1)
    to_first = time.perf_counter() - start
    n = len(head) + len(response.read())
    if response.status != 200 or n != size:
        raise RuntimeError(f"status {response.status}, {n} of {size} bytes")
    return to_first * 1e3, (time.perf_counter() - start) * 1e3


def spread(samples) -> dict:
    firsts, lasts = sorted(s[0] for s in samples), sorted(s[1] for s in samples)
    out = dict(ttfb_p50=firsts[len(firsts) // 2], total_p50=lasts[len(lasts) // 2])
    if len(samples) > 1:
        out["ttfb_p99"] = firsts[max(0, int(len(firsts) * .99) - 1)]
    return out
