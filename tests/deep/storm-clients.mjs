/**
 * Many Lanyard devices in one process, each with a key and an address of its own: they join once, go, and come back at once.
 *
 *   node storm-clients.mjs PORT FIRST COUNT
 *
 * One command a line on stdin, one answer a line on stdout:
 *
 *   join              each joins and goes; where the feed stood then is kept
 *   connect           all come back at the same moment; answered once all are in
 *   back              answered once all are in again, after they lost the relay
 *   watch MARKER      counts who reads of that name from now on
 *   add MARKER        the first device adds a file of that name
 *   seen SECONDS      answered once all have read of it, and a moment has passed in which some could read of it again
 *   floor ROUNDS      a bare loop that writes to as many sockets: what of the times is this process's own
 *   quit
 *
 * A device is in when it is approved and has read the last page of the list. From then on it parses nothing but searches.
 */
import { fork } from "node:child_process";
import crypto from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import net from "node:net";
import { createInterface } from "node:readline";

const { blake3 } = createRequire(new URL("../e2e/package.json", import.meta.url))("hash-wasm");
const JOIN_AT_ONCE = 8;
const GONE_MS = 120_000;
// In which a second copy of a message would come.
const QUIET_MS = 500;
const [BACK_FIRST_MS, BACK_MOST_MS] = [250, 15_000];
const NO_CHANNEL = "0".repeat(64);
const [CONTINUED, TEXT, CLOSE, PING, PONG] = [0x0, 0x1, 0x8, 0x9, 0xa];
const ADDED = Buffer.from('"FILES_ADDED"');
const DIRTY = Buffer.from('"FEED_DIRTY"');
// About as long as a FILES_ADDED of one file.
const FRAME_BYTES = 460;

const random = (bytes) => crypto.randomBytes(bytes).toString("hex");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
/** One clock for all processes of this machine. */
const now = () => performance.timeOrigin + performance.now();

async function until(check, ms) {
  const end = now() + ms;
  while (!check()) {
    if (now() > end) return false;
    await pause(2);
  }
  return true;
}

/** One frame to a server, masked with zeros, so that the payload stays as it is. */
function masked(opcode, payload) {
  const size = payload.length;
  const head = size < 126 ? Buffer.from([0x80 | opcode, 0x80 | size]) : Buffer.from([0x80 | opcode, 0xfe, size >> 8, size & 0xff]);
  return Buffer.concat([head, Buffer.alloc(4), payload]);
}

let marker = null;

/** A WebSocket that is read frame by frame. */
class Socket {
  #rest = null;
  #greeted;
  #parts = [];
  /** When it first read of the marker, how often as an addition, and in all. */
  firstSeen = 0;
  additions = 0;
  mentions = 0;

  constructor(port, from, head) {
    this.#greeted = !head;
    this.ended = false;
    this.tcp = net.connect({ host: "127.0.0.1", port, localAddress: from, noDelay: true }, () => head && this.tcp.write(head));
    this.tcp.on("data", (bytes) => this.#take(bytes));
    this.tcp.on("error", () => {});
    this.tcp.on("close", () => {
      this.ended = true;
      this.onend?.();
    });
  }

  send(opcode, payload) {
    if (!this.ended) this.tcp.write(masked(opcode, payload));
  }

  #take(bytes) {
    let left = this.#rest ? Buffer.concat([this.#rest, bytes]) : bytes;
    if (!this.#greeted) {
      const end = left.indexOf("\r\n\r\n");
      if (end >= 0 && left.toString("latin1", 9, 12) !== "101") return this.tcp.destroy();
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

  #fragment(part, isLast) {
    this.#parts.push(part);
    if (isLast) this.#text(Buffer.concat(this.#parts.splice(0)));
  }

  #text(payload) {
    if (marker !== null && payload.includes(marker)) {
      this.firstSeen ||= now();
      this.mentions += 1;
      if (payload.includes(ADDED)) this.additions += 1;
    }
    this.ontext?.(payload);
  }
}

/** One device: PROTOCOL.md, sections 1 to 4. */
class Device {
  #key = crypto.generateKeyPairSync("ed25519");
  #reveal = random(32);
  #instance = random(16);
  #pulling = null;
  #tries = 0;
  resume = undefined;
  asked = 0;
  codes = [];

  async prepare() {
    this.commit = await blake3(["lanyard/1 commit", this.publicKey, this.#reveal].join("\n"));
    return this;
  }

  constructor(port, number) {
    this.port = port;
    this.name = `Device ${number}`;
    // A device has an address of its own, as on a network.
    this.address = `127.${1 + (number >> 16)}.${(number >> 8) & 0xff}.${number & 0xff}`;
    this.authority = `127.0.0.1:${port}`;
    this.publicKey = this.#key.publicKey.export({ type: "spki", format: "der" }).subarray(-32).toString("hex");
  }

  get isIn() {
    return this.approved && this.listed && !this.socket.ended;
  }

  connect() {
    [this.approved, this.listed, this.enteredAt] = [false, false, 0];
    const head =
      `GET /ws/device HTTP/1.1\r\nHost: ${this.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
      `Sec-WebSocket-Key: ${crypto.randomBytes(16).toString("base64")}\r\nSec-WebSocket-Protocol: lanyard.v1\r\n\r\n`;
    const old = this.socket;
    const socket = new Socket(this.port, this.address, head);
    if (old) [socket.firstSeen, socket.additions, socket.mentions] = [old.firstSeen, old.additions, old.mentions];
    this.socket = socket;
    socket.ontext = (payload) => socket === this.socket && this.#text(payload);
    socket.onend = () => socket === this.socket && this.#lost();
  }

  drop() {
    const { socket } = this;
    this.socket = { ended: true, firstSeen: 0, additions: 0, mentions: 0 };
    socket?.tcp?.destroy();
  }

  /** As a real one: again after a random part of a growing wait. */
  #lost() {
    if (this.socket.closing) this.codes.push(this.socket.closing);
    this.isAway = true;
    const ceiling = Math.min(BACK_MOST_MS, BACK_FIRST_MS * 2 ** this.#tries++);
    setTimeout(() => this.socket.ended && !this.stopped && this.connect(), Math.random() * ceiling);
  }

  #text(payload) {
    // An idle device looks only for what tells it to pull.
    if (this.isIn && !payload.includes(DIRTY)) return;
    const { opcode, data } = JSON.parse(payload.toString());
    if (opcode === "CHALLENGE") this.#say("CLIENT_REGISTER", this.#register(data));
    else if (opcode === "CLIENT_REGISTER_ACK") {
      this.publicId = data.public_id;
      this.approved = data.membership === "approved";
    } else if (opcode === "MEMBERSHIP") this.approved ||= data.membership === "approved";
    else if (opcode === "CLIENT_APPROVED") this.approved ||= data.client.public_id === this.publicId;
    else if (opcode === "APPROVAL_CHALLENGE" || opcode === "APPROVAL_RESTART") {
      this.asked += 1;
      if (opcode === "APPROVAL_CHALLENGE") this.#say("APPROVAL_REVEAL", { request_id: data.request_id, reveal: this.#reveal });
    }
    else if (opcode === "FEED_DIRTY") this.#pull();
    else if (opcode === "FEED_PAGE") this.#page(data);
    if (this.isIn && !this.enteredAt) {
      this.enteredAt = now();
      this.#tries = 0;
    }
  }

  #pull() {
    this.dirty = (this.dirty ?? 0) + 1;
    this.#pulling = this.resume ?? { epoch: 0, revision: 0 };
    this.#say("FEED_PULL", { epoch: this.#pulling.epoch, since: this.#pulling.revision });
    this.listed = false;
  }

  #page({ epoch, revision, cursor, last }) {
    if (!last) {
      const from = this.#pulling ?? this.resume ?? { epoch: 0, revision: 0 };
      return this.#say("FEED_PULL", { epoch: from.epoch, since: from.revision, cursor });
    }
    this.#pulling = null;
    this.resume = { epoch, revision };
    this.listed = true;
  }

  #register({ boot_id, nonce, hub }) {
    const own = random(32);
    const text = ["lanyard/1 device", boot_id, nonce, own, hub.public_key, this.publicKey, this.authority, NO_CHANNEL].join("\n");
    return {
      protocol: 1,
      name: this.name,
      kind: "native",
      platform: "",
      instance: this.#instance,
      public_key: this.publicKey,
      nonce: own,
      signature: crypto.sign(null, Buffer.from(text), this.#key.privateKey).toString("hex"),
      commit: this.commit,
      ...(this.resume ? { resume: this.resume } : {}),
    };
  }

  #say(opcode, data) {
    this.socket.send(TEXT, Buffer.from(JSON.stringify({ opcode, ref: random(8), data })));
  }

  add(path) {
    this.#say("ADD_FILES", { files: [{ file_id: crypto.randomUUID(), path, size: 1, modified_ms: Date.now(), media_type: "" }] });
  }
}

function spread(values) {
  const sorted = values.sort((a, b) => a - b);
  const at = (part) => sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)];
  return { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: sorted.at(-1) };
}

/** A process that writes one frame to all who are connected, whenever its parent says so. */
function bareLoop() {
  const sockets = [];
  const server = net.createServer({ noDelay: true }, (socket) => sockets.push(socket.on("error", () => {})));
  server.listen(0, "127.0.0.1", () => process.send(server.address().port));
  process.on("message", (text) => {
    if (text === null) return process.send(sockets.length);
    const frame = Buffer.concat([Buffer.from([0x80 | TEXT, 126, FRAME_BYTES >> 8, FRAME_BYTES & 0xff]), Buffer.from(text.padEnd(FRAME_BYTES, "."))]);
    for (const socket of sockets) socket.write(frame);
  });
}

async function floor(count, rounds) {
  const child = fork(new URL(import.meta.url), ["--bare"]);
  const [port] = await once(child, "message");
  const sockets = Array.from({ length: count }, () => new Socket(port, "127.0.0.1", null));
  for (let connected = 0; connected < count; [connected] = await once(child, "message")) child.send(null);
  const late = [];
  for (let round = 0; round < rounds; round += 1) {
    marker = Buffer.from(`bare-${random(8)}`);
    sockets.forEach((socket) => (socket.firstSeen = 0));
    const start = now();
    child.send(marker.toString());
    await until(() => sockets.every(({ firstSeen }) => firstSeen), GONE_MS);
    late.push(...sockets.map(({ firstSeen }) => firstSeen - start));
  }
  marker = null;
  child.kill();
  sockets.forEach(({ tcp }) => tcp.destroy());
  return spread(late);
}

async function joinAll(devices) {
  let next = 0;
  let resume;
  const line = async () => {
    while (next < devices.length) {
      const device = devices[next++];
      device.connect();
      if (!(await until(() => device.isIn, GONE_MS))) throw new Error(`${device.name} is not in: ${device.codes}`);
      resume = !resume || device.resume.revision > resume.revision ? device.resume : resume;
      device.drop();
    }
  };
  await Promise.all(Array.from({ length: JOIN_AT_ONCE }, line));
  // As if each had stayed until the last had come.
  for (const device of devices) [device.resume, device.asked] = [resume, 0];
  return { joined: devices.length };
}

/** Once all are in: how long that took each, from `start` on. */
async function allIn(devices, start) {
  await until(() => devices.every((device) => device.isIn), GONE_MS);
  const there = devices.filter((device) => device.isIn);
  return {
    in: there.length,
    asked: devices.reduce((sum, { asked }) => sum + asked, 0),
    codes: [...new Set(devices.flatMap(({ codes }) => codes))],
    ...spread(there.map(({ enteredAt }) => enteredAt - start)),
    last_at: Math.max(...there.map(({ enteredAt }) => enteredAt)),
  };
}

async function obey(devices, [word, argument]) {
  if (word === "join") return joinAll(devices);
  if (word === "connect") {
    const start = now();
    for (const device of devices) device.connect();
    return { ...(await allIn(devices, start)), start };
  }
  if (word === "back") return allIn(devices, now());
  if (word === "watch") {
    marker = Buffer.from(argument);
    for (const { socket } of devices) [socket.firstSeen, socket.additions, socket.mentions] = [0, 0, 0];
    return {};
  }
  if (word === "add") {
    const at = now();
    devices[0].add(`${argument}.bin`);
    return { at };
  }
  if (word === "seen") {
    await until(() => devices.every(({ socket }) => socket.firstSeen), Number(argument) * 1000);
    await pause(QUIET_MS);
    const sockets = devices.map(({ socket }) => socket);
    return {
      lost: sockets.filter(({ firstSeen }) => !firstSeen).length,
      twice: sockets.filter(({ additions }) => additions > 1).length,
      mentions: sockets.reduce((sum, { mentions }) => sum + mentions, 0),
      dirty: devices.reduce((sum, { dirty }) => sum + (dirty ?? 0), 0),
      at: sockets.map(({ firstSeen }) => firstSeen).filter(Boolean),
    };
  }
  if (word === "floor") return floor(devices.length, Number(argument));
  throw new Error(`there is no ${word}`);
}

if (process.argv[2] === "--bare") bareLoop();
else {
  const [port, first, count] = process.argv.slice(2).map(Number);
  const devices = await Promise.all(Array.from({ length: count }, (_, number) => new Device(port, first + number).prepare()));
  say({ keys: devices.length });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === "quit") process.exit(0);
    say(await obey(devices, line.split(" ")));
  }
  process.exit(0);
}
