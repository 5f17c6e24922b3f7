#!/usr/bin/env python3
"""Lanyard and its peers, doing the same work on loopback in turns. See README.md."""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import product
import report
from browsers import BROWSER_PEERS
from contender import Contender
from core import GIB, HERE, MIB, Run, make_file, make_hole, make_tree, raise_file_limit
from peers import PEERS

SIZES = {"single": GIB, "fanout": 256 * MIB, "browser": 256 * MIB}
SCENARIOS = ["single", "fanout", "small", "latency", "control", "browser"]
# Their figures are medians of many within a round, or need no warm cache.
NO_WARM_UP = {"latency", "control"}


def bytes_of(text: str) -> int:
    units = {"K": 1 << 10, "M": MIB, "G": GIB}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


def arguments():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("scenario", choices=SCENARIOS)
    a.add_argument("--only", default="", help="contenders, with commas between; NAME* for all that begin so")
    a.add_argument("--ref", help="contender to which ratios are taken (default: nginx, in browser webrtc-datachannel)")
    a.add_argument("--reps", type=int, default=5, help="rounds that count (default: 5)")
    a.add_argument("--no-warm-up", action="store_true", help="leave out the round before those")
    a.add_argument("--size", type=bytes_of, help="of the file, such as 64M or 20G (single 1G, fanout and browser 256M)")
    a.add_argument("--hole", action="store_true", help="the file is a hole: for a size that neither memory nor disk holds twice, and for nothing but memory")
    a.add_argument("--receivers", type=int, default=8, help="of fanout (default: 8)")
    a.add_argument("--slow", type=int, metavar="N", help="fanout: one receiver is N times slower than each was in the warm-up")
    a.add_argument("--rates", type=lambda text: [bytes_of(rate) for rate in text.split(",")], metavar="R,R,…",
                   help="fanout: receivers are limited to these rates a second, in turn, such as 20M,4M; each rate is timed")
    a.add_argument("--files", type=int, default=10000, help="of small (default: 10000)")
    a.add_argument("--each", type=bytes_of, default=4096, help="bytes of each of them (default: 4096)")
    a.add_argument("--clients", type=int, default=1000, help="of control (default: 1000)")
    a.add_argument("--tools", help="JSON file: program name -> path, for what is not on PATH")
    a.add_argument("--product", action="append", help="description of a product under test (default: lanyard.json); may be given again")
    a.add_argument("--work", help="scratch directory (default: in memory, else the system's temporary one)")
    a.add_argument("--out", help="write OUT.json with every run, and OUT.md")
    a.add_argument("--title", default="", help="a word for the table's head")
    a = a.parse_args()
    a.ref = a.ref or ("webrtc-datachannel" if a.scenario == "browser" else "nginx")
    if a.slow and (a.scenario != "fanout" or a.no_warm_up or a.receivers < 2):
        sys.exit("--slow is for a fanout to at least 2, and takes its rate from the warm-up")
    if a.rates and (a.scenario != "fanout" or a.slow):
        sys.exit("--rates is for a fanout, without --slow")
    return a


def contenders(a) -> tuple[list[Contender], dict]:
    tools = json.loads(Path(a.tools).read_text()) if a.tools else {}
    found: list[Contender] = [kind(tools) for kind in PEERS + BROWSER_PEERS]
    for file in a.product or [HERE / "lanyard.json"]:
        found += product.load(file, tools)
    wanted = [w for w in a.only.split(",") if w]
    found = [c for c in found if a.scenario in c.scenarios and (not wanted or any(c.name == w or w.endswith("*") and c.name.startswith(w[:-1]) for w in wanted))]
    found = [c for c in found if not (a.slow or a.rates) or c.can_slow]
    absent = {c.name: what for c in found if (what := c.missing())}
    for name, what in absent.items():
        print(f"skip {name}: no {what}", file=sys.stderr)
    return [c for c in found if c.name not in absent], tools


def make_data(a, base: Path):
    if a.scenario == "small":
        return make_tree(base / "tree", a.files, a.each, 7)
    if a.scenario == "latency":
        return {"1 B": make_file(base / "b1.bin", 1, 1), "1 MiB": make_file(base / "m1.bin", MIB, 2)}
    if a.scenario == "control":
        return None
    size = a.size or SIZES[a.scenario]
    return make_hole(base / "src.bin", size) if a.hole else make_file(base / "src.bin", size, 7)


class Rounds:
    """Everybody once a round, in an order that turns: a machine whose pace drifts favours nobody."""

    def __init__(self, a, found, tools, base):
        self.a, self.found, self.tools, self.base = a, found, tools, base
        self.results: dict[str, list] = {c.name: [] for c in found}
        self.failed: dict[str, str] = {}
        self.slow_rates: dict[str, int] = {}

    def all(self, data):
        first = 1 if self.a.no_warm_up or self.a.scenario in NO_WARM_UP else 0
        for rep in range(first, self.a.reps + 1):
            turn = rep % len(self.found)
            for c in self.found[turn:] + self.found[:turn]:
                if c.name not in self.failed and self._due(c, rep):
                    self._try(c, rep, data)

    def _due(self, c, rep):
        """What has fewer rounds for its slowness has no warm-up either."""
        limit = c.reps(self.a.scenario, self.a.reps)
        return c.reps(self.a.scenario, sys.maxsize) == sys.maxsize if rep == 0 else rep <= limit

    def _try(self, c, rep, data):
        try:
            result = self._one(c, rep, data)
        except Exception as e:
            self.failed[c.name] = f"{type(e).__name__}: {' '.join(str(e).split())}"[:400]
            print(f"FAIL {c.name}: {self.failed[c.name]}", file=sys.stderr, flush=True)
            if os.environ.get("BENCH_TRACE"):
                traceback.print_exc()
            return
        if rep:
            self.results[c.name].append(result)
        regions = " ".join(f"{k} {r['wall_s']:.3f} s, CPU {r['cpu_s']:.2f} s" for k, r in result["regions"].items())
        print(f"{f'round {rep}' if rep else 'warm-up'} {c.name}: {regions or 'done'}", file=sys.stderr, flush=True)

    def _one(self, c, rep, data) -> dict:
        tmp = self.base / f"{rep}-{c.name}"
        tmp.mkdir()
        run = Run(tmp, self.tools, samples=self.a.scenario != "latency")
        try:
            self._play(c, run, data)
            result = run.result()
        finally:
            run.close()
        if self.a.slow and not rep:
            self.slow_rates[c.name] = max(1, int(data["size"] / result["regions"]["download"]["wall_s"] / self.a.slow))
        return result

    def _play(self, c, run, data):
        if self.a.scenario == "fanout":
            rate = self.a.rates or self.slow_rates.get(c.name)
            c.fanout(run, data, self.a.receivers, rate)
            if rate:
                run.extra["slow_rate"] = rate
        elif self.a.scenario == "control":
            c.control(run, self.a.clients)
        else:
            getattr(c, self.a.scenario)(run, data)


def head(a) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    what = " ".join(filter(None, [a.scenario, a.title, f"(one of {a.receivers} is {a.slow} times slower)" if a.slow else ""]))
    return (f"Scenario {what}: {datetime.date.today()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}; "
            f"medians of {a.reps} interleaved rounds (fewer for the slow ones)" + ("" if a.scenario in NO_WARM_UP else f", reference {a.ref}"))


def body(a, results, summaries, versions, failed) -> str:
    tables = {"latency": lambda: report.latency(results), "control": lambda: report.control(results)}
    text = tables.get(a.scenario, lambda: report.transfers(summaries, a.ref))()
    text += "\n\nVersions and sizes: " + "; ".join(f"{n}: {v}, {size / MIB:.1f} MiB" for n, (v, size) in versions.items())
    return text + ("\n\nFailed: " + "; ".join(f"{n}: {why}" for n, why in failed.items()) if failed else "")


def main() -> int:
    a = arguments()
    raise_file_limit()
    # Ended from outside, we still end what we started and take our scratch away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found, tools = contenders(a)
    if not found:
        sys.exit("nothing to measure")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    base = Path(tempfile.mkdtemp(prefix="lanyard-bench-", dir=a.work or memory))
    rounds = Rounds(a, found, tools, base)
    try:
        rounds.all(make_data(a, base))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    results = {name: runs for name, runs in rounds.results.items() if runs}
    versions = {c.name: (c.version(), c.size()) for c in found if c.name in results}
    summaries = {} if a.scenario in NO_WARM_UP else {name: report.summarise(runs) for name, runs in results.items()}
    text = head(a) + "\n\n" + body(a, results, summaries, versions, rounds.failed)
    if a.out:
        Path(a.out).parent.mkdir(parents=True, exist_ok=True)
        Path(a.out + ".md").write_text(text + "\n")
        Path(a.out + ".json").write_text(json.dumps(dict(head=head(a), versions=versions, summary=summaries, runs=results, failed=rounds.failed), indent=1))
    print(text)
    return 1 if rounds.failed else 0


if __name__ == "__main__":
    sys.exit(main())
