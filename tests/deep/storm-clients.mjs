/**
 * Many Lanyard devices in one process, each with a key and an address of its own: they join once, go, and come back at once.
 * With ADDRESS all share that address, as behind one NAT.
 *
 *   node storm-clients.mjs PORT FIRST COUNT [ADDRESS]
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
import { createInterface } from "node:readline";
import { DIRTY, Identity, Socket, TEXT, addition, bare, message, pause, random, say, spread } from "../bench/wire.mjs";

const JOIN_AT_ONCE = 8;
const GONE_MS = 120_000;
// In which a second copy of a message would come.
const QUIET_MS = 500;
const [BACK_FIRST_MS, BACK_MOST_MS] = [250, 15_000];
const ADDED = Buffer.from('"FILES_ADDED"');

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

let marker = null;

class Counting extends Socket {
  /** When it first read of the marker, how often as an addition, and in all. */
  firstSeen = 0;
  additions = 0;
  mentions = 0;

  /** A relay that is starting; it is tried again. */
  refused() {
    this.tcp.destroy();
  }

  heard(payload) {
    if (marker !== null && payload.includes(marker)) {
      this.firstSeen ||= now();
      this.mentions += 1;
      if (payload.includes(ADDED)) this.additions += 1;
    }
    this.ontext?.(payload);
  }
}

class Device {
  #pulling = null;
  #tries = 0;
  resume = undefined;
  asked = 0;
  codes = [];
  opened = 0;

  constructor(port, number, address) {
    this.port = port;
    this.identity = new Identity(port, `Device ${number}`);
    // A device has an address of its own, as on a network.
    this.address = address ?? `127.${1 + (number >> 16)}.${(number >> 8) & 0xff}.${number & 0xff}`;
  }

  async prepare() {
    this.commit = await this.identity.commit();
    return this;
  }

  get isIn() {
    return this.approved && this.listed && !this.socket.ended;
  }

  connect() {
    [this.approved, this.listed, this.enteredAt] = [false, false, 0];
    this.opened += 1;
    const old = this.socket;
    const socket = new Counting({ port: this.port, from: this.address, head: this.identity.upgrade() });
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
      if (opcode === "APPROVAL_CHALLENGE") this.#say("APPROVAL_REVEAL", { request_id: data.request_id, reveal: this.identity.reveal });
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

  #register(challenge) {
    return this.identity.register(challenge, { commit: this.commit, ...(this.resume ? { resume: this.resume } : {}) });
  }

  #say(opcode, data) {
    this.socket.send(TEXT, message(opcode, data));
  }

  add(path) {
    this.socket.send(TEXT, addition(path));
  }
}

async function floor(count, rounds) {
  const loop = await bare(count, (port) => new Counting({ port }));
  const late = [];
  for (let round = 0; round < rounds; round += 1) {
    marker = Buffer.from(`bare-${random(8)}`);
    loop.sockets.forEach((socket) => (socket.firstSeen = 0));
    const start = now();
    loop.write(marker.toString());
    await until(() => loop.sockets.every(({ firstSeen }) => firstSeen), GONE_MS);
    late.push(...loop.sockets.map(({ firstSeen }) => firstSeen - start));
  }
  marker = null;
  loop.end();
  return spread(late);
}

async function joinAll(devices) {
  let next = 0;
  let resume;
  const line = async () => {
    while (next < devices.length) {
      const device = devices[next++];
      device.connect();
      if (!(await until(() => device.isIn, GONE_MS))) throw new Error(`${device.identity.name} is not in: ${device.codes}`);
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
    opened: devices.reduce((sum, { opened }) => sum + opened, 0),
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

const [port, first, count] = process.argv.slice(2, 5).map(Number);
const address = process.argv[5];
const numbers = Array.from({ length: count }, (_, number) => first + number);
const devices = await Promise.all(numbers.map((number) => new Device(port, number, address).prepare()));
say({ keys: devices.length });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "quit") process.exit(0);
  say(await obey(devices, line.split(" ")));
}
process.exit(0);
