"""The product under test, as a JSON file describes it (`lanyard.json`): a hub's processes, devices that join, share and get.

A command is a list of words in which {name} is filled in; a word that is nothing but {paths} becomes as many as there are.
A variant lays its own keys over the description: `from` and `to` are native (default), page, or, of `to`, link; `more` appends
words to the command of a role; `only_if` asks the program whether it can do that at all."""
from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import control
from browsers import DIGEST, Browser, missing_package
from contender import Contender, curl_get, fan_out, first_line, time_to_bytes
from core import ROOT, WrongBytes, check_file, check_tree, digest_list, free_port

OWNER, LINKER = "owner", "linker"


def load(file: Path, tools: dict) -> list[Product]:
    spec = json.loads(Path(file).read_text())
    return [Product(tools, {**spec, **variant}, name) for name, variant in spec["variants"].items()]


def first_existing(places) -> str:
    """The binary: a place with an unset variable is none, a relative one is meant from the tree's root."""
    filled = [os.path.expandvars(p) for p in places]
    paths = [ROOT / p for p in filled if p and "$" not in p]
    return str(next((p for p in paths if p.exists()), paths[-1]))


class Product(Contender):
    can_slow = True

    def __init__(self, tools: dict, spec: dict, name: str):
        super().__init__(tools)
        self.spec, self.name = spec, name
        self.scenarios = set(spec["scenarios"])
        self.bin = self.tool(spec["name"]) if spec["name"] in tools else first_existing(spec["binary"])
        self.sender, self.to = spec.get("from", "native"), spec.get("to", "native")
        self.tls = spec["scheme"] == "https"

    # ------------------------------------------------------------ what it is
    def missing(self):
        if not os.path.exists(self.bin):
            return f"{self.bin} (cargo build --release)"
        if (can := self.spec.get("only_if")) and can["says"] not in self._says(can["run"]):
            return f"a {self.spec['name']} with {can['says']}"
        pages = "page" in (self.sender, self.to)
        needs = (["chromium", "node"] if pages else []) + (["curl"] if self.to == "link" else [])
        return next((n for n in needs if not os.path.exists(self.tool(n))), None) or (missing_package("playwright-core") if pages else None)

    def _says(self, command) -> str:
        done = subprocess.run(self.fill(command), capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    def version(self):
        return first_line(self.fill(self.spec["version"]))

    def size(self):
        return os.path.getsize(self.bin)

    # ------------------------------------------------------------ a hub and its devices
    def fill(self, command, **values) -> list[str]:
        words = []
        for word in command:
            whole = values.get(word[1:-1]) if word.startswith("{") else None
            words += [str(w) for w in whole] if isinstance(whole, list) else [word.format(bin=self.bin, **values)]
        return words

    def boot(self, run, paths=()):
        """Starts the hub and, with paths, a native device that shares them."""
        self.run, self.port = run, free_port()
        self.origin = f"{self.spec['scheme']}://127.0.0.1:{self.port}"
        self.data = run.dir("data")
        for service in self.spec["services"]:
            more = self.spec.get("more", {}).get(service["role"], [])
            run.spawn(service["role"], self._command([*service["run"], *more]), ready=service["ready"])
        if paths:
            self._join(OWNER)
            owner = self.spec["owner"]
            run.spawn("sender", self._command(owner["run"], member=OWNER, paths=list(paths)), ready=owner["ready"], timeout=120)

    def _command(self, command, **values):
        return self.fill(command, port=self.port, origin=self.origin, data=self.data, **values)

    def _join(self, member):
        self.run.command(self._command(self.spec["join"], member=member))

    def _link(self, name) -> str:
        """A link, made by a device that only does that."""
        if not (self.data / LINKER).exists():
            self._join(LINKER)
        return self.run.command(self._command(self.spec["link"], member=LINKER, name=name)).strip()

    def _receivers(self, name, n):
        """Readies n receivers of a file or folder; the function that starts number i, and where its copy will lie."""
        outs = [self.run.dir(f"out{i}") for i in range(n)]
        link = self._link(name)
        if self.to == "native":
            for i in range(n):
                self._join(f"receiver{i}")

        def start(i, rate=None):
            if self.to == "link":
                return curl_get(self.run, link, outs[i] / name, self.tls, rate)
            brake = self.fill(self.spec["brake"], rate=rate) if rate else []
            command = self._command(self.spec["receiver"], member=f"receiver{i}", name=name, out=outs[i])
            return self.run.spawn("receiver", [*command, *brake])
        return start, [out / name for out in outs]

    def _received(self) -> int | None:
        """How many bytes the hub has taken from owners; None while it does not say."""
        asked = self.spec["received_bytes"]
        try:
            request = urllib.request.Request(self._command([asked["url"]])[0])
            token = Path(self._command([asked["token"]])[0]) if "token" in asked else None
            # A hub of an older version makes none, and wants none.
            if token is not None and token.exists():
                request.add_header("Authorization", f"Bearer {token.read_text().strip()}")
            with urllib.request.urlopen(request, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except urllib.error.HTTPError:
            return None
        samples = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == asked["counter"]]
        return int(sum(map(float, samples))) if samples else None

    def _note_upload(self, before, size):
        after = self._received()
        if None not in (before, after):
            self.run.extra["owner_upload_ratio"] = (after - before) / size

    # ------------------------------------------------------------ scenarios
    def single(self, run, data):
        self.fanout(run, data, 1)

    def fanout(self, run, data, n, slow_rate=None):
        self.boot(run, [data["path"]])
        start, copies = self._receivers(data["path"].name, n)
        run.note_idle()
        before = self._received()
        fan_out(run, data["size"], n, start, slow_rate)
        self._note_upload(before, data["size"])
        for copy in copies:
            check_file(copy, data)

    def small(self, run, data):
        self.boot(run, [data["path"]])
        start, [copy] = self._receivers(data["path"].name, 1)
        run.note_idle()
        before = self._received()
        with run.timed("download", data["size"]):
            run.join([start(0)])
        self._note_upload(before, data["size"])
        check_tree(copy, data)

    def latency(self, run, files):
        self.boot(run, [f["path"] for f in files.values()])
        run.note_idle()
        for k, (label, f) in enumerate(files.items()):
            run.extra[label] = self._link_latency(f) if self.to == "link" else self._process_latency(label, f, k)

    def _link_latency(self, f):
        url = urlsplit(self._link(f["path"].name))
        return time_to_bytes(self.port, url.path, f["size"], self.tls)

    def _process_latency(self, label, f, k):
        member, out = f"receiver{k}", self.run.dir(f"out{k}")
        self._join(member)
        with self.run.timed(label, f["size"]):
            self.run.join([self.run.spawn("receiver", self._command(self.spec["receiver"], member=member, name=f["path"].name, out=out))])
        check_file(out / f["path"].name, f)
        return {"process": {"total_p50": self.run.regions[label]["wall_s"] * 1e3}}

    def control(self, run, clients):
        if missing := missing_package("hash-wasm"):
            raise RuntimeError(f"needs {missing}")
        self.boot(run)
        run.note_idle()
        run.extra["control"] = control.lanyard(run, self.origin, clients)

    def browser(self, run, data):
        name = data["path"].name
        self.boot(run, [data["path"]] if self.sender == "native" else [])
        if self.sender == "page":
            self._page("sender").call("share", path=data["path"], name=name)
        if self.to == "page":
            self._browser_receives(run, data, self._page("receiver"), self._link(name))
        else:
            self._program_receives(run, data)

    def _page(self, role) -> Browser:
        """The product's own page, through its door; all that is added to it is what reads and digests."""
        browser = Browser(self.run, role)
        browser.call("init", js=DIGEST)
        browser.call("enter", url=self.origin, name=role)
        return browser

    def _browser_receives(self, run, data, page, link):
        run.note_idle()
        before = self._received()
        with run.timed("download", data["size"]):
            got = page.eval("benchPull", urlsplit(link).path)
        self._note_upload(before, data["size"])
        if got != digest_list(data):
            raise WrongBytes("the digests differ")

    def _program_receives(self, run, data):
        start, [copy] = self._receivers(data["path"].name, 1)
        run.note_idle()
        before = self._received()
        with run.timed("download", data["size"]):
            run.join([start(0)])
        self._note_upload(before, data["size"])
        check_file(copy, data)
