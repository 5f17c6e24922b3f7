/**
 * A thousand Lanyard devices in one process: each with a key of its own, let in by a hub that admits everyone, then idle.
 *
 *   node swarm.mjs ORIGIN CLIENTS ROUNDS
 *
 * Prints {connected, connect_s}; after a line on stdin, one line a round, {seen, p50_ms, p99_ms, max_ms}: one device adds a
 * file, and when each of the others has read of it. Last comes the same for a bare loop that writes a frame of that size to
 * as many sockets from a process that does nothing else: what of these times is ours.
 *
 * Sockets are read by hand, for a WebSocket library would cost more than what is measured. After it has joined, a device
 * parses nothing: it searches frames for the file's name. It does not check the hub's signature either.
 */
import { fork } from "node:child_process";
import crypto from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import net from "node:net";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { blake3 } = createRequire(new URL("../e2e/package.json", import.meta.url))("hash-wasm");
// The hub keeps at most 16 undecided knocks of one address.
const AT_ONCE = 8;
const PATIENCE_MS = 10_000;
const QUIET_MS = 200;
const NO_CHANNEL = "0".repeat(64);
// What a hub says in place of the changes that it dropped for a session which reads too slowly.
const DIRTY = Buffer.from('"FEED_DIRTY"');
const [CONTINUED, TEXT, CLOSE, PING, PONG] = [0x0, 0x1, 0x8, 0x9, 0xa];

const random = (bytes) => crypto.randomBytes(bytes).toString("hex");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** One frame to a server, masked with zeros, so that the payload stays as it is. */
function masked(opcode, payload) {
  const size = payload.length;
  const head = size < 126 ? Buffer.from([0x80 | opcode, 0x80 | size]) : Buffer.from([0x80 | opcode, 0xfe, size >> 8, size & 0xff]);
  return Buffer.concat([head, Buffer.alloc(4), payload]);
}

/** One frame of a server, without a mask. */
function unmasked(payload) {
  return Buffer.concat([Buffer.from([0x80 | TEXT, 126, payload.length >> 8, payload.length & 0xff]), payload]);
}

/** What all sockets look for at the moment, and when it was asked for. */
const watch = { marker: null, start: 0, late: [], all: () => {} };

function watchFor(marker, wanted) {
  return new Promise((resolve) => {
    const all = () => watch.late.length >= wanted && resolve();
    Object.assign(watch, { marker: Buffer.from(marker), start: performance.now(), late: [], all });
  });
}

/** A WebSocket that is read frame by frame, without copies where a frame came in one piece. */
class Socket {
  #rest = null;
  #greeted = false;
  #seen = null;
  #parts = [];

  constructor(port, head) {
    this.ended = false;
    this.tcp = net.connect({ host: "127.0.0.1", port, noDelay: true }, () => head && this.tcp.write(head));
    this.#greeted = !head;
    this.tcp.on("data", (bytes) => this.#take(bytes));
    this.tcp.on("error", () => {});
    this.tcp.on("close", () => {
      this.ended = true;
      this.onend?.();
    });
  }

  send(opcode, payload) {
    this.tcp.write(masked(opcode, payload));
  }

  #take(bytes) {
    let left = this.#rest ? Buffer.concat([this.#rest, bytes]) : bytes;
    if (!this.#greeted) {
      const end = left.indexOf("\r\n\r\n");
      if (end >= 0 && !left.subarray(0, 12).equals(Buffer.from("HTTP/1.1 101"))) throw new Error(left.subarray(0, 200).toString());
      this.#greeted = end >= 0;
      left = end >= 0 ? left.subarray(end + 4) : left;
    }
    while (this.#greeted) {
      const size = this.#frame(left);
      if (size === 0) break;
      left = left.subarray(size);
    }
    this.#rest = left.length > 0 ? left : null;
  }

  /** Handles the first frame and returns its length; 0 when it is not all there. */
  #frame(bytes) {
    if (bytes.length < 2) return 0;
    const short = bytes[1] & 0x7f;
    const at = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (bytes.length < at) return 0;
    const size = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
    if (bytes.length < at + size) return 0;
    const payload = bytes.subarray(at, at + size);
    const [opcode, isLast] = [bytes[0] & 0x0f, bytes[0] >= 0x80];
    if (opcode === TEXT && isLast) this.#text(payload);
    else if (opcode === TEXT || opcode === CONTINUED) this.#fragment(Buffer.from(payload), isLast);
    else if (opcode === PING) this.send(PONG, payload);
    else if (opcode === CLOSE) this.closing = size >= 2 ? payload.readUInt16BE(0) : 1005;
    return at + size;
  }

  /** A large message comes in parts. */
  #fragment(part, isLast) {
    this.#parts.push(part);
    if (isLast) this.#text(Buffer.concat(this.#parts.splice(0)));
  }

  #text(payload) {
    if (watch.marker !== null && this.#seen !== watch.marker && payload.includes(watch.marker)) {
      this.#seen = watch.marker;
      watch.late.push(performance.now() - watch.start);
      watch.all();
    }
    if (this.idle && payload.includes(DIRTY)) this.dirty = true;
    this.ontext?.(payload);
  }
}

/** One device: PROTOCOL.md, sections 1 to 4. */
class Device {
  #key = crypto.generateKeyPairSync("ed25519");
  #reveal = random(32);
  #approved = false;
  #listed = false;

  constructor(port, name) {
    this.authority = `127.0.0.1:${port}`;
    this.name = name;
    this.publicKey = this.#key.publicKey.export({ type: "spki", format: "der" }).subarray(-32).toString("hex");
    this.socket = new Socket(
      port,
      `GET /ws/device HTTP/1.1\r\nHost: ${this.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
        `Sec-WebSocket-Key: ${crypto.randomBytes(16).toString("base64")}\r\nSec-WebSocket-Protocol: lanyard.v1\r\n\r\n`,
    );
  }

  /** Resolves when the hub has let it in and it has read the whole list. */
  join() {
    return new Promise((resolve, reject) => {
      const failed = (why) => reject(new Error(`${this.name}: ${why}`));
      this.socket.onend = () => failed(`closed with ${this.socket.closing ?? "nothing"}`);
      this.socket.ontext = (payload) => {
        this.#hear(JSON.parse(payload.toString()), failed).catch(reject);
        if (!this.#approved || !this.#listed) return;
        this.socket.idle = true;
        this.socket.ontext = undefined;
        this.socket.onend = undefined;
        resolve();
      };
    });
  }

  async #hear({ opcode, data }, failed) {
    if (opcode === "CHALLENGE") this.#say("CLIENT_REGISTER", await this.#register(data));
    else if (opcode === "CLIENT_REGISTER_ACK") this.publicId = data.public_id;
    else if (opcode === "APPROVAL_CHALLENGE") this.#say("APPROVAL_REVEAL", { request_id: data.request_id, reveal: this.#reveal });
    else if (opcode === "CLIENT_APPROVED") this.#approved ||= data.client.public_id === this.publicId;
    else if (opcode === "REQUEST_FAILED") failed(data.code);
    else if (opcode === "FEED_PAGE") {
      this.#listed = data.last;
      if (!data.last) this.#say("FEED_PULL", { epoch: 0, since: 0, cursor: data.cursor });
    }
  }

  async #register({ boot_id, nonce, hub }) {
    const own = random(32);
    const text = ["lanyard/1 device", boot_id, nonce, own, hub.public_key, this.publicKey, this.authority, NO_CHANNEL].join("\n");
    return {
      protocol: 1,
      name: this.name,
      kind: "native",
      platform: "",
      instance: random(16),
      public_key: this.publicKey,
      nonce: own,
      signature: crypto.sign(null, Buffer.from(text), this.#key.privateKey).toString("hex"),
      commit: await blake3(["lanyard/1 commit", this.publicKey, this.#reveal].join("\n")),
    };
  }

  #say(opcode, data) {
    this.socket.send(TEXT, Buffer.from(JSON.stringify({ opcode, ref: random(8), data })));
  }

  add(path) {
    this.#say("ADD_FILES", { files: [{ file_id: crypto.randomUUID(), path, size: 1, modified_ms: Date.now(), media_type: "" }] });
  }
}

async function joinAll(port, count) {
  const devices = [];
  const line = async () => {
    while (devices.length < count) {
      const device = new Device(port, `Device ${devices.length + 1}`);
      devices.push(device);
      await device.join();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, line));
  return devices;
}

/** Lets `act` cause a frame with `marker` and tells when each of so many sockets has read it. */
async function broadcast(marker, wanted, act) {
  const all = watchFor(marker, wanted);
  act();
  await Promise.race([all, pause(PATIENCE_MS)]);
  watch.marker = null;
  const late = watch.late.sort((a, b) => a - b);
  await pause(QUIET_MS);
  const at = (part) => late[Math.max(0, Math.ceil(late.length * part) - 1)];
  return { seen: late.length, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: late.at(-1) };
}

/** Why somebody may have missed a change. */
function missed(devices) {
  const closed = devices.filter(({ socket }) => socket.ended);
  const dirty = devices.filter(({ socket }) => socket.dirty);
  return { closed: closed.length, close_codes: [...new Set(closed.map(({ socket }) => socket.closing ?? 0))], told_to_pull: dirty.length };
}

/** The adder hears of its own file too, but is not one of the others. */
async function addition(adder, others, round) {
  const marker = `added-${round}-${random(4)}`;
  const { seen, ...times } = await broadcast(marker, others + 1, () => adder.add(`${marker}.bin`));
  return { seen: Math.min(seen, others), ...times };
}

/** A process that writes one frame to all who are connected, whenever its parent says so. */
async function bareLoop(size) {
  const sockets = [];
  const server = net.createServer({ noDelay: true }, (socket) => sockets.push(socket.on("error", () => {})));
  server.listen(0, "127.0.0.1", () => process.send(server.address().port));
  process.on("message", (marker) => {
    if (marker === null) return process.send(sockets.length);
    const frame = unmasked(Buffer.from(marker.padEnd(size, ".")));
    for (const socket of sockets) socket.write(frame);
  });
}

/** The median of as many rounds, of as many sockets and bytes, without a hub behind them. */
async function floor(count, rounds) {
  const child = fork(new URL(import.meta.url), ["--bare"]);
  const [port] = await once(child, "message");
  const sockets = Array.from({ length: count }, () => new Socket(port, null));
  for (let connected = 0; connected < count; [connected] = await once(child, "message")) child.send(null);
  const results = [];
  for (let round = 0; round < rounds; round += 1) {
    const marker = `bare-${random(8)}`;
    results.push(await broadcast(marker, count, () => child.send(marker)));
  }
  child.kill();
  sockets.forEach(({ tcp }) => tcp.destroy());
  const middle = (key) => results.map((one) => one[key]).sort((a, b) => a - b)[rounds >> 1];
  return { p50_ms: middle("p50_ms"), p99_ms: middle("p99_ms"), max_ms: middle("max_ms") };
}

async function main([origin, clients, rounds]) {
  const port = Number(new URL(origin).port);
  const started = performance.now();
  const devices = await joinAll(port, Number(clients));
  say({ connected: devices.length, connect_s: (performance.now() - started) / 1000 });
  await once(createInterface({ input: process.stdin }), "line");
  for (let round = 0; round < Number(rounds); round += 1) {
    say({ ...(await addition(devices[round % devices.length], devices.length - 1, round)), ...missed(devices) });
  }
  say(await floor(devices.length, Number(rounds)));
  process.exit(0);
}

// About as long as a FILES_ADDED of one file.
const FRAME_BYTES = 460;
if (import.meta.url !== pathToFileURL(process.argv[1]).href) throw new Error("swarm.mjs is a program");
if (process.argv[2] === "--bare") await bareLoop(FRAME_BYTES);
else await main(process.argv.slice(2));
