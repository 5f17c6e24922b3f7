"""The peers that are programs: web servers, relays, and direct transfers. Each does the same work and is checked alike."""
from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from contender import CURL, Contender, curl_get, fan_out, first_line, time_to_bytes
from core import ROOT, WrongBytes, check_file, check_tree, free_port, size_of, tree_hash

PIPE = ROOT / "target/release/examples/pipe"


def python_packages(program: str, *names: str) -> int:
    """The size of installed Python packages beside a program of their environment."""
    base = Path(os.path.realpath(os.path.dirname(program))).parent
    return sum(size_of(p) for n in names for p in glob.glob(str(base / f"lib/python*/site-packages/{n}")))


class Iperf3(Contender):
    """Memory to memory over one loopback connection: the ceiling. The only contender whose bytes are not checked."""
    name, needs, scenarios = "iperf3", ["iperf3"], {"single", "fanout"}

    def _go(self, run, size, n):
        ports = [free_port() for _ in range(n)]
        servers = [run.spawn("receiver", [run.tool("iperf3"), "--forceflush", "-s", "-1", "-B", "127.0.0.1", "-p", p], ready="listening") for p in ports]
        with run.timed("download", size * n) as own:
            clients = [run.spawn("sender", [run.tool("iperf3"), "-c", "127.0.0.1", "-p", p, "-n", size, "-l", "256K", "-J"]) for p in ports]
            run.join(clients + servers)
            if n == 1:  # Its own clock leaves out its fixed exchange at start and end.
                own["wall"] = json.loads(clients[0].log.read_text())["end"]["sum_sent"]["seconds"]

    def single(self, run, data):
        self._go(run, data["size"], 1)

    def fanout(self, run, data, n, slow_rate=None):
        self._go(run, data["size"], n)


class BarePipe(Contender):
    """File to socket to socket to file, without protocol: the floor of every relay here; verified, of every relay that checks."""
    name, scenarios, how = "bare-pipe", {"single"}, "bare"

    def missing(self):
        return None if PIPE.exists() else "cargo build --release -p lanyard-tests --example pipe"

    def version(self):
        return "std::net, blocks of 256 KiB"

    def size(self):
        return size_of(str(PIPE))

    def single(self, run, data):
        port, out = free_port(), run.dir("out") / "src.bin"
        words = [PIPE, self.how]
        run.spawn("hub", [*words, "relay", port], ready="listening")
        # It must be there before the owner: the relay takes them in this order.
        receiver = run.spawn("receiver", [*words, "receiver", port, out], ready="connected")
        with run.timed("download", data["size"]):
            run.join([run.spawn("sender", [*words, "owner", port, data["path"]]), receiver])
        check_file(out, data)


class VerifiedPipe(BarePipe):
    name, how = "verified-pipe", "verified"


# ---------------------------------------------------------------- web servers: curl uploads, curl downloads
class HttpServer(Contender):
    """A server that is told to serve a directory. `up`: it takes uploads too, and what is downloaded was uploaded before."""
    scenarios = {"single", "fanout", "small", "latency"}
    can_slow = True
    up = False
    tls = False

    def start(self, run, root: Path, port: int):
        raise NotImplementedError

    def url(self, port, name):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{port}/{name}"

    def boot(self, run, root):
        port = free_port()
        self.start(run, root, port)
        run.note_idle()
        return port

    def put(self, run, port, path):
        return run.spawn("sender", [run.tool("curl"), *CURL, "-T", path, self.url(port, "up.bin")])

    def _offer(self, run, data):
        """A running server that has the file; its URL."""
        root = run.dir("root")
        os.link(data["path"], root / "src.bin")
        port = self.boot(run, root)
        if not self.up:
            return self.url(port, "src.bin")
        with run.timed("upload", data["size"]):
            run.join([self.put(run, port, data["path"])])
        check_file(root / "up.bin", data)
        return self.url(port, "up.bin")

    def single(self, run, data):
        url, out = self._offer(run, data), run.dir("out") / "o"
        with run.timed("download", data["size"]):
            run.join([curl_get(run, url, out, self.tls)])
        check_file(out, data)

    def fanout(self, run, data, n, slow_rate=None):
        url, out = self._offer(run, data), run.dir("out")
        fan_out(run, data["size"], n, lambda i, rate: curl_get(run, url, out / f"o{i}", self.tls, rate), slow_rate)
        for i in range(n):
            check_file(out / f"o{i}", data)

    def small(self, run, data):
        """The folder as single requests over kept connections, eight at a time."""
        root, out = run.dir("root"), run.dir("out")
        shutil.copytree(data["path"], root / "t")
        port = self.boot(run, root)
        names = sorted(p.relative_to(data["path"]).as_posix() for p in data["path"].rglob("*.bin"))
        if self.up:
            lines = (f'upload-file = "{data["path"] / n}"\nurl = "{self.url(port, "u/" + n)}"' for n in names)
            with run.timed("upload", data["size"]):
                run.join([self._parallel(run, "sender", lines)])
            if tree_hash(root / "u") != data["sha256"]:
                raise WrongBytes("the folder differs after its upload")
        lines = (f'output = "{out / n}"\nurl = "{self.url(port, "t/" + n)}"' for n in names)
        with run.timed("download", data["size"]):
            run.join([self._parallel(run, "receiver", lines, "-k", "--create-dirs")])
        check_tree(out, data)

    @staticmethod
    def _parallel(run, role, lines, *extra):
        config = run.tmp / f"{role}.curl"
        config.write_text("\n".join(lines))
        return run.spawn(role, [run.tool("curl"), *CURL, *extra, "-Z", "--parallel-max", 8, "-K", config])

    def latency(self, run, files):
        root = run.dir("root")
        for f in files.values():
            os.link(f["path"], root / f["path"].name)
        port = self.boot(run, root)
        for label, f in files.items():
            run.extra[label] = time_to_bytes(port, "/" + f["path"].name, f["size"], self.tls)


class Nginx(HttpServer):
    """A static file, sendfile, one worker: the practical ceiling of a plain HTTP download."""
    name, needs = "nginx", ["nginx"]

    def version(self):
        return first_line([self.tool("nginx"), "-v"])

    def _certificate(self, run, d):
        run.command([self.tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                     "-subj", "/CN=localhost", "-keyout", d / "k.pem", "-out", d / "c.pem"])
        return f"ssl_certificate {d}/c.pem; ssl_certificate_key {d}/k.pem;"

    def start(self, run, root, port):
        d = run.dir("nginx")
        certificate = self._certificate(run, d) if self.tls else ""
        # As root its worker would be another user, who cannot read our scratch directory.
        user = "user root;" if os.getuid() == 0 else ""
        (d / "n.conf").write_text(f"""daemon off; worker_processes 1; pid {d}/pid; error_log {d}/err; events {{ worker_connections 512; }} {user}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
client_body_temp_path {d}/a; proxy_temp_path {d}/b; fastcgi_temp_path {d}/c; uwsgi_temp_path {d}/e; scgi_temp_path {d}/f;
server {{ listen 127.0.0.1:{port} {'ssl' if self.tls else ''}; {certificate} root {root}; }} }}""")
        run.spawn("hub", [run.tool("nginx"), "-p", d, "-c", d / "n.conf", "-e", d / "err"], port=port)


class NginxTls(Nginx):
    name, needs, tls, scenarios = "nginx-tls", ["nginx", "openssl"], True, {"single", "latency"}


class Dufs(HttpServer):
    name, needs, up = "dufs", ["dufs"], True

    def reps(self, scenario, wished):
        return min(wished, 2) if scenario == "small" else wished

    def start(self, run, root, port):
        run.spawn("hub", [run.tool("dufs"), "-A", "-b", "127.0.0.1", "-p", port, "--log-format", "", root], port=port)


class Miniserve(HttpServer):
    name, needs, up, scenarios = "miniserve", ["miniserve"], True, {"single", "fanout", "latency"}

    def start(self, run, root, port):
        run.spawn("hub", [run.tool("miniserve"), "-u", "/", "-i", "127.0.0.1", "-p", port, root], port=port)

    def put(self, run, port, path):
        return run.spawn("sender", [run.tool("curl"), *CURL, "-F", f"path=@{path};filename=up.bin", self.url(port, "upload?path=/")])


class Copyparty(HttpServer):
    name, needs, up, scenarios = "copyparty", ["copyparty"], True, {"single", "fanout", "latency"}

    def start(self, run, root, port):
        home = run.dir("home")
        run.spawn("hub", [run.tool("copyparty"), "-q", "-i", "127.0.0.1", "-p", port, "--no-crt", "--no-thumb", "--wram", "-v", f"{root}::rwmd"],
                  port=port, env={"XDG_CONFIG_HOME": str(home), "HOME": str(home)}, cwd=home)

    def size(self):
        return python_packages(self.tool("copyparty"), "copyparty")


# ---------------------------------------------------------------- senders and receivers
class Wormhole(Contender):
    """magic-wormhole; neither side listens, so every byte passes the local transit relay."""
    name, needs, scenarios = "wormhole-relay", ["wormhole", "twist"], {"single", "fanout", "small", "latency"}

    def reps(self, scenario, wished):
        return min(wished, 2 if scenario == "fanout" else 3)

    def size(self):
        return python_packages(self.tool("wormhole"), "wormhole", "twisted", "autobahn", "nacl", "cryptography", "spake2", "attr", "attrs", "zope",
                               "noiseprotocol", "wormhole_mailbox_server", "wormhole_transit_relay")

    def boot(self, run):
        mailbox, transit = free_port(), free_port()
        d = run.dir("mailbox")
        run.spawn("hub", [run.tool("twist"), "wormhole-mailbox", "--port", f"tcp:{mailbox}:interface=127.0.0.1", "--channel-db", d / "c.sqlite"], port=mailbox, cwd=d)
        run.spawn("hub", [run.tool("twist"), "transitrelay", "--port", f"tcp:{transit}:interface=127.0.0.1"], port=transit, cwd=d)
        run.note_idle()
        self.base = [run.tool("wormhole"), "--relay-url", f"ws://127.0.0.1:{mailbox}/v1", "--transit-helper", f"tcp:127.0.0.1:{transit}"]

    def _send(self, run, path, code):
        return run.spawn("sender", [*self.base, "send", "--no-listen", "--hide-progress", "--code", code, path],
                         ready="wormhole receive", timeout=60, env={"PYTHONUNBUFFERED": "1"})

    def _receive(self, run, out, code):
        return run.spawn("receiver", [*self.base, "receive", "--no-listen", "--accept-file", "--hide-progress", "-o", out, code])

    def _go(self, run, path, outs, size, region="download"):
        codes = [f"{k + 1}-alpha-beta" for k in range(len(outs))]
        senders = [self._send(run, path, code) for code in codes]
        with run.timed(region, size):
            run.join([self._receive(run, out, code) for out, code in zip(outs, codes)])
            run.join(senders)

    def single(self, run, data):
        self.boot(run)
        out = run.dir("out") / "o"
        self._go(run, data["path"], [out], data["size"])
        check_file(out, data)

    def fanout(self, run, data, n, slow_rate=None):
        self.boot(run)
        outs = [run.dir("out") / f"o{i}" for i in range(n)]
        self._go(run, data["path"], outs, data["size"] * n)
        for out in outs:
            check_file(out, data)

    def small(self, run, data):
        self.boot(run)
        out = run.dir("out") / "o"
        self._go(run, data["path"], [out], data["size"])
        check_tree(out, data)

    def latency(self, run, files):
        self.boot(run)
        for label, f in files.items():
            out = run.dir("out") / f["path"].name
            self._go(run, f["path"], [out], f["size"], region=label)
            check_file(out, f)
            run.extra[label] = {"process": {"total_p50": run.regions[label]["wall_s"] * 1e3}}


class Sendme(Contender):
    """iroh-blobs, direct QUIC on loopback without its relays: a native way from device to device, no hub."""
    name, needs, scenarios = "sendme-direct", ["sendme"], {"single", "fanout", "small", "latency"}

    def boot(self, run, path):
        p = run.spawn("sender", [run.tool("sendme"), "send", "--relay", "disabled", "--ticket-type", "addresses", "--magic-ipv4-addr", f"127.0.0.1:{free_port()}", path],
                      ready=r"sendme receive (\S+)", cwd=run.dir("sender"), timeout=60, env={"IROH_DATA_DIR": str(run.dir("iroh"))})
        run.note_idle()
        return p.match.group(1)

    def _go(self, run, data, outs, region="download"):
        ticket = self.boot(run, data["path"])
        with run.timed(region, data["size"] * len(outs)):
            run.join([run.spawn("receiver", [run.tool("sendme"), "receive", "--relay", "disabled", "--magic-ipv4-addr", f"127.0.0.1:{free_port()}", ticket], cwd=out)
                      for out in outs])

    def single(self, run, data):
        self.fanout(run, data, 1)

    def fanout(self, run, data, n, slow_rate=None):
        outs = [run.dir(f"out{i}") for i in range(n)]
        self._go(run, data, outs)
        for out in outs:
            check_file(out / data["path"].name, data)

    def small(self, run, data):
        out = run.dir("out")
        self._go(run, data, [out])
        check_tree(out / data["path"].name, data)

    def latency(self, run, files):
        for label, f in files.items():
            out = run.dir("out-" + f["path"].name)
            self._go(run, f, [out], region=label)
            check_file(out / f["path"].name, f)
            run.extra[label] = {"process": {"total_p50": run.regions[label]["wall_s"] * 1e3}}


class Syncthing(Contender):
    """Two instances that know only each other: from the order to scan on one to the last final name on the other."""
    name, needs, scenarios = "syncthing", ["syncthing"], {"single", "small"}
    KEY = "k"

    def reps(self, scenario, wished):
        return min(wished, 3)

    def _identity(self, run, home):
        env = dict(os.environ, HOME=str(home))
        subprocess.run([run.tool("syncthing"), "generate", "--home", home, "--no-default-folder", "--skip-port-probing"], check=True, capture_output=True, env=env)
        return run.command([run.tool("syncthing"), "--home", home, "--device-id"]).strip()

    def _config(self, folder, ids, peers, listen, gui):
        devices = "".join(f'<device id="{ids[k]}" name="{k}" compression="never"><address>tcp://127.0.0.1:{peers[k]}</address></device>' for k in ids)
        members = "".join(f'<device id="{i}"></device>' for i in ids.values())
        features = ("globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled", "startBrowser")
        off = "".join(f"<{name}>false</{name}>" for name in features)
        return f"""<configuration version="35"><folder id="f" label="f" path="{folder}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="false">{members}
<filesystemType>basic</filesystemType><minDiskFree unit="%">0</minDiskFree></folder>{devices}
<gui enabled="true" tls="false"><address>127.0.0.1:{gui}</address><apikey>{self.KEY}</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:{listen}</listenAddress>{off}<urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH>
<reconnectionIntervalS>1</reconnectionIntervalS></options></configuration>"""

    def boot(self, run):
        roles = {"a": "sender", "b": "receiver"}
        homes = {k: run.dir("home-" + k) for k in roles}
        self.folders = {k: run.dir("folder-" + k) for k in roles}
        ids = {k: self._identity(run, homes[k]) for k in roles}
        peers, gui = ({k: free_port() for k in roles} for _ in range(2))
        for k, role in roles.items():
            (self.folders[k] / ".stfolder").mkdir()
            (homes[k] / "config.xml").write_text(self._config(self.folders[k], ids, peers, peers[k], gui[k]))
            run.spawn(role, [run.tool("syncthing"), "serve", "--home", homes[k], "--no-browser", "--no-restart", "--no-upgrade"],
                      port=gui[k], env={"HOME": str(homes[k]), "STNODEFAULTFOLDER": "1"})
        self.api = f"http://127.0.0.1:{gui['a']}"
        self._until(lambda: json.load(self._ask("/rest/system/connections"))["connections"].get(ids["b"], {}).get("connected"), "two instances that meet", 30)
        run.note_idle(1.0)

    def _ask(self, path, method="GET"):
        return urllib.request.urlopen(urllib.request.Request(self.api + path, method=method, headers={"X-API-Key": self.KEY}), timeout=300)

    @staticmethod
    def _until(done, what, patience):
        end = time.monotonic() + patience
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"syncthing: no {what}")
            time.sleep(0.02)

    def _go(self, run, done, size):
        with run.timed("download", size):
            self._ask("/rest/db/scan?folder=f", "POST")
            self._until(done, "end of the transfer", 600)

    def single(self, run, data):
        self.boot(run)
        arrived = self.folders["b"] / "src.bin"
        os.link(data["path"], self.folders["a"] / "src.bin")
        self._go(run, arrived.exists, data["size"])
        check_file(arrived, data)

    def small(self, run, data):
        self.boot(run)
        shutil.copytree(data["path"], self.folders["a"] / "t")

        def done():
            # Counting ten thousand names costs something too: not too often.
            time.sleep(0.05)
            return sum(n.endswith(".bin") and not n.startswith(".") for _, _, names in os.walk(self.folders["b"]) for n in names) == data["n"]
        self._go(run, done, data["size"])
        check_tree(self.folders["b"] / "t", data)


PEERS = [Iperf3, BarePipe, VerifiedPipe, Nginx, NginxTls, Dufs, Miniserve, Copyparty, Wormhole, Sendme, Syncthing]
