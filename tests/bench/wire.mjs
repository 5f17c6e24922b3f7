/**
 * What a swarm of devices in one process speaks: WebSockets read by hand, for a library would cost more than what is measured, and
 * the registration of a device. For swarm.mjs and tests/deep/storm-clients.mjs.
 */
import { fork } from "node:child_process";
import crypto from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import net from "node:net";

const { blake3 } = createRequire(new URL("../e2e/package.json", import.meta.url))("hash-wasm");
const NO_CHANNEL = "0".repeat(64);
/** The base point of X25519: a key like any other for who sends no bodies. */
const EPHEMERAL = "09".padEnd(64, "0");
const [CONTINUED, CLOSE, PING, PONG] = [0x0, 0x8, 0x9, 0xa];
export const TEXT = 0x1;
/** What a hub says in place of the changes that it dropped for a session which reads too slowly. */
export const DIRTY = Buffer.from('"FEED_DIRTY"');
// About as long as a FILES_ADDED of one file.
const FRAME_BYTES = 460;

export const random = (bytes) => crypto.randomBytes(bytes).toString("hex");
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

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

/** A WebSocket that is read frame by frame, without copies where a frame came in one piece. Who extends it says what is heard. */
export class Socket {
  #rest = null;
  #greeted = false;
  #parts = [];

  /** `head` is the request to upgrade; without one the other side speaks frames at once. */
  constructor({ port, from, head }) {
    this.ended = false;
    this.tcp = net.connect({ host: "127.0.0.1", port, localAddress: from, noDelay: true }, () => head && this.tcp.write(head));
    this.#greeted = !head;
    this.tcp.on("data", (bytes) => this.#take(bytes));
    this.tcp.on("error", () => {});
    this.tcp.on("close", () => {
      this.ended = true;
      this.onend?.();
    });
  }

  /** A whole message. */
  heard(_payload) {}

  /** It is no WebSocket. */
  refused(answer) {
    throw new Error(answer.subarray(0, 200).toString());
  }

  send(opcode, payload) {
    if (!this.ended) this.tcp.write(masked(opcode, payload));
  }

  #take(bytes) {
    let left = this.#rest ? Buffer.concat([this.#rest, bytes]) : bytes;
    if (!this.#greeted) {
      const end = left.indexOf("\r\n\r\n");
      if (end >= 0 && left.toString("latin1", 9, 12) !== "101") return this.refused(left);
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
    if (opcode === TEXT && isLast) this.heard(payload);
    else if (opcode === TEXT || opcode === CONTINUED) this.#fragment(Buffer.from(payload), isLast);
    else if (opcode === PING) this.send(PONG, payload);
    else if (opcode === CLOSE) this.closing = size >= 2 ? payload.readUInt16BE(0) : 1005;
    return at + size;
  }

  /** A large message comes in parts. */
  #fragment(part, isLast) {
    this.#parts.push(part);
    if (isLast) this.heard(Buffer.concat(this.#parts.splice(0)));
  }
}

/** The key of a device, what it has to prove and how it asks for a socket: PROTOCOL.md, sections 1 to 4. */
export class Identity {
  #key = crypto.generateKeyPairSync("ed25519");
  #instance = random(16);
  reveal = random(32);

  constructor(port, name) {
    this.authority = `127.0.0.1:${port}`;
    this.name = name;
    this.publicKey = this.#key.publicKey.export({ type: "spki", format: "der" }).subarray(-32).toString("hex");
  }

  upgrade() {
    return (
      `GET /ws/device HTTP/1.1\r\nHost: ${this.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
      `Sec-WebSocket-Key: ${crypto.randomBytes(16).toString("base64")}\r\nSec-WebSocket-Protocol: lanyard.v2\r\n\r\n`
    );
  }

  commit() {
    return blake3(["lanyard/2 commit", this.publicKey, this.reveal].join("\n"));
  }

  /** A CLIENT_REGISTER. The hub's own signature is not checked. */
  register({ boot_id, nonce, ephemeral_key, hub }, more) {
    const own = random(32);
    const signed = [boot_id, nonce, own, hub.public_key, this.publicKey, this.authority, NO_CHANNEL, ephemeral_key, EPHEMERAL];
    const text = ["lanyard/2 device", ...signed].join("\n");
    return {
      protocol: 2,
      name: this.name,
      kind: "native",
      platform: "",
      instance: this.#instance,
      public_key: this.publicKey,
      nonce: own,
      ephemeral_key: EPHEMERAL,
      signature: crypto.sign(null, Buffer.from(text), this.#key.privateKey).toString("hex"),
      ...more,
    };
  }
}

/** One message of a device. */
export const message = (opcode, data) => Buffer.from(JSON.stringify({ opcode, ref: random(8), data }));

/** An ADD_FILES of one small file. */
export const addition = (path) =>
  message("ADD_FILES", { files: [{ file_id: crypto.randomUUID(), path, size: 1, modified_ms: Date.now(), media_type: "" }] });

/** A process that writes one frame to all who are connected, whenever its parent says so: `bare.mjs`. */
export function bareLoop() {
  const sockets = [];
  const server = net.createServer({ noDelay: true }, (socket) => sockets.push(socket.on("error", () => {})));
  server.listen(0, "127.0.0.1", () => process.send(server.address().port));
  process.on("message", (text) => {
    if (text === null) return process.send(sockets.length);
    const frame = unmasked(Buffer.from(text.padEnd(FRAME_BYTES, ".")));
    for (const socket of sockets) socket.write(frame);
  });
}

/** That process, with so many sockets made by `connect(port)`: what of a swarm's times is the swarm's own. */
export async function bare(count, connect) {
  const child = fork(new URL("bare.mjs", import.meta.url));
  const [port] = await once(child, "message");
  const sockets = Array.from({ length: count }, () => connect(port));
  for (let connected = 0; connected < count; [connected] = await once(child, "message")) child.send(null);
  const end = () => {
    child.kill();
    sockets.forEach(({ tcp }) => tcp.destroy());
  };
  return { sockets, write: (text) => child.send(text), end };
}

/** Of numbers in any order. */
export function spread(values) {
  const sorted = values.sort((a, b) => a - b);
  const at = (part) => sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)];
  return { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: sorted.at(-1) };
}
