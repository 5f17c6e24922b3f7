"""Browsers under measurement, and the peers that live in them."""
from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import threading
from pathlib import Path

import control
from contender import Contender
from core import HERE, ROOT, WrongBytes, digest_list, free_port, size_of

PAGES = HERE / "browser"
PACKAGES = ROOT / "tests/e2e/node_modules"
DIGEST = (PAGES / "digest.js").read_text()


def missing_package(name: str) -> str | None:
    return None if (PACKAGES / name).is_dir() else f"{name} (npm ci --prefix tests/e2e)"


class Browser:
    """One Chromium in one node process; see `browser/driver.mjs`."""

    def __init__(self, run, role):
        profile = run.dir(f"profile-{len(run.procs)}")
        self.p = run.spawn(role, [run.tool("node"), PAGES / "driver.mjs", run.tool("chromium"), profile], pipe=True)
        self._answer()

    def _answer(self):
        line = self.p.p.stdout.readline()
        if not line:
            raise RuntimeError(f"the browser's driver died: {self.p.said()}")
        answer = json.loads(line)
        if "err" in answer:
            raise RuntimeError(f"browser: {answer['err'][:600]}")
        return answer["ok"]

    def call(self, cmd, **rest):
        self.p.p.stdin.write((json.dumps(dict(cmd=cmd, **rest), default=str) + "\n").encode())
        self.p.p.stdin.flush()
        return self._answer()

    def eval(self, js, arg=None):
        """Awaits `js`, a function of the page or an expression for one, called with `arg`."""
        return self.call("eval", js=js, arg=arg)


class BrowserContender(Contender):
    scenarios = {"browser"}
    needs = ["chromium", "node"]

    def missing(self):
        return super().missing() or missing_package("playwright-core")


@contextlib.contextmanager
def page_server():
    """Serves `browser/` from a thread of ours: the page alone, none of the payload."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(PAGES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


class DataChannel(BrowserContender):
    """One ordered RTCDataChannel between two Chromiums, messages of 64 KiB, the sender reads a File from disk."""
    name = "webrtc-datachannel"
    PIECE = 64 << 10

    def size(self):
        library = Path("/usr/lib/chromium")
        return size_of(str(library)) if library.is_dir() else 0

    def browser(self, run, data):
        with page_server() as port:
            a, b = Browser(run, "sender"), Browser(run, "receiver")
            for browser in (a, b):
                browser.call("goto", url=f"http://127.0.0.1:{port}/dc.html")
            a.call("files", selector="#file", path=data["path"])
            a.eval("accept", b.eval("answer", a.eval("offer")))
            run.note_idle()
            with run.timed("download", data["size"]):
                a.eval("(piece) => { send(piece); }", self.PIECE)
                got = b.eval("received", data["size"])
            if got != digest_list(data):
                raise WrongBytes("the digests differ")


class PairDrop(Contender):
    """PairDrop's server with nobody but idle clients."""
    name, needs, scenarios = "pairdrop", ["node"], {"control"}
    fallback = False

    def missing(self):
        return super().missing() or (None if os.path.isdir(self.home() + "/node_modules") else "pairdrop_dir")

    def home(self):
        return os.path.expanduser(os.path.expandvars(self.tools.get("pairdrop_dir", "pairdrop")))

    def version(self):
        return "PairDrop " + json.loads(Path(self.home(), "package.json").read_text())["version"]

    def size(self):
        return size_of(self.home())

    def serve(self, run):
        port = free_port()
        rtc = run.tmp / "rtc.json"
        rtc.write_text('{"sdpSemantics":"unified-plan","iceServers":[]}')
        fallback = ["--include-ws-fallback"] if self.fallback else []
        run.spawn("hub", [run.tool("node"), "server/index.js", "--localhost-only", *fallback], port=port, cwd=self.home(),
                  env={"PORT": str(port), "RTC_CONFIG": str(rtc)})
        run.note_idle(1.0)
        return port

    def control(self, run, clients):
        run.extra["control"] = control.pairdrop(run, self.serve(run), clients)


class PairDropBrowser(PairDrop):
    """The whole application in two Chromiums, over WebRTC. Its receiver's digest is made after the clock has stopped."""
    name, needs, scenarios = "pairdrop-webrtc", ["chromium", "node"], {"browser"}

    # Its own events tell us when the two have found each other, and say yes in place of a person.
    HOOK = """(() => { window.benchPeers = []; const timer = setInterval(() => { if (typeof Events === 'undefined') return;
        clearInterval(timer); Events.on('peer-connected', e => benchPeers.push(e.detail.peerId)); }, 5); })();"""
    NO_WEBRTC = "window.RTCPeerConnection = window.webkitRTCPeerConnection = undefined;"
    ACCEPT = """() => { window.benchGot = new Promise(done => Events.on('files-received', e => done(e.detail.files[0])));
        Events.on('files-transfer-request', e => Events.fire('respond-to-files-transfer-request', {to: e.detail.peerId, accepted: true})); }"""
    PEER = "async () => { for (let i = 0; i < 600 && !benchPeers.length; i++) await new Promise(r => setTimeout(r, 50)); return benchPeers[0]; }"
    SEND = "to => { Events.fire('files-selected', {files: document.getElementById('bench-file').files, to}); }"
    CHECK = """async () => { const digest = new BenchDigest();
        for (let at = 0; at < benchFile.size; at += 1 << 20) digest.add(new Uint8Array(await benchFile.slice(at, at + (1 << 20)).arrayBuffer()));
        return digest.end(); }"""

    def missing(self):
        return super().missing() or missing_package("playwright-core")

    def browser(self, run, data):
        port = self.serve(run)
        a, b = Browser(run, "sender"), Browser(run, "receiver")
        for browser in (a, b):
            browser.call("init", js=DIGEST + self.HOOK + (self.NO_WEBRTC if self.fallback else ""))
            browser.call("goto", url=f"http://127.0.0.1:{port}/")
        b.eval(self.ACCEPT)
        a.call("input")
        a.call("files", selector="#bench-file", path=data["path"])
        peer = a.eval(self.PEER)
        if not peer:
            raise RuntimeError("the two browsers did not find each other")
        with run.timed("download", data["size"]):
            a.eval(self.SEND, peer)
            b.eval("async () => { window.benchFile = await benchGot; }")
        if b.eval(self.CHECK) != digest_list(data):
            raise WrongBytes("the digests differ")


class PairDropFallback(PairDropBrowser):
    """The same without WebRTC: every byte goes through the server, as base64 in JSON."""
    name, fallback = "pairdrop-ws-relay", True


BROWSER_PEERS = [DataChannel, PairDrop, PairDropBrowser, PairDropFallback]
