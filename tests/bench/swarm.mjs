/**
 * A thousand Lanyard devices in one process: each with a key of its own, let in by a hub that admits everyone, then idle.
 *
 *   node swarm.mjs ORIGIN CLIENTS ROUNDS
 *
 * Prints {connected, connect_s}; after a line on stdin, one line a round, {seen, p50_ms, p99_ms, max_ms}: one device adds a
 * file, and when each of the others has read of it. Last comes the same for a bare loop that writes a frame of that size to
 * as many sockets from a process that does nothing else: what of these times is ours.
 *
 * After it has joined, a device parses nothing: it searches frames for the file's name.
 */
import { once } from "node:events";
import { createInterface } from "node:readline";
import { DIRTY, Identity, Socket, TEXT, addition, bare, message, pause, random, say, spread } from "./wire.mjs";

// The hub keeps at most 16 undecided knocks of one address.
const AT_ONCE = 8;
const PATIENCE_MS = 10_000;
const QUIET_MS = 200;

/** What all sockets look for at the moment, and when it was asked for. */
const watch = { marker: null, start: 0, late: [], all: () => {} };

function watchFor(marker, wanted) {
  return new Promise((resolve) => {
    const all = () => watch.late.length >= wanted && resolve();
    Object.assign(watch, { marker: Buffer.from(marker), start: performance.now(), late: [], all });
  });
}

class Watching extends Socket {
  #seen = null;

  heard(payload) {
    if (watch.marker !== null && this.#seen !== watch.marker && payload.includes(watch.marker)) {
      this.#seen = watch.marker;
      watch.late.push(performance.now() - watch.start);
      watch.all();
    }
    if (this.idle && payload.includes(DIRTY)) this.dirty = true;
    this.ontext?.(payload);
  }
}

class Device {
  #approved = false;
  #listed = false;

  constructor(port, name) {
    this.identity = new Identity(port, name);
    this.socket = new Watching({ port, head: this.identity.upgrade() });
  }

  /** Resolves when the hub has let it in and it has read the whole list. */
  join() {
    return new Promise((resolve, reject) => {
      const failed = (why) => reject(new Error(`${this.identity.name}: ${why}`));
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
    const { identity } = this;
    if (opcode === "CHALLENGE") this.#say("CLIENT_REGISTER", identity.register(data, { commit: await identity.commit() }));
    else if (opcode === "CLIENT_REGISTER_ACK") this.publicId = data.public_id;
    else if (opcode === "APPROVAL_CHALLENGE") this.#say("APPROVAL_REVEAL", { request_id: data.request_id, reveal: identity.reveal });
    else if (opcode === "CLIENT_APPROVED") this.#approved ||= data.client.public_id === this.publicId;
    else if (opcode === "REQUEST_FAILED") failed(data.code);
    else if (opcode === "FEED_PAGE") {
      this.#listed = data.last;
      if (!data.last) this.#say("FEED_PULL", { epoch: 0, since: 0, cursor: data.cursor });
    }
  }

  #say(opcode, data) {
    this.socket.send(TEXT, message(opcode, data));
  }

  add(path) {
    this.socket.send(TEXT, addition(path));
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
  const { late } = watch;
  await pause(QUIET_MS);
  return { seen: late.length, ...spread(late) };
}

/** Why somebody may have missed a change. */
function missed(devices) {
  const closed = devices.filter(({ socket }) => socket.ended);
  const dirty = devices.filter(({ socket }) => socket.dirty);
  return { closed: closed.length, close_codes: [...new Set(closed.map(({ socket }) => socket.closing ?? 0))], told_to_pull: dirty.length };
}

/** The adder hears of its own file too, but is not one of the others. */
async function added(adder, others, round) {
  const marker = `added-${round}-${random(4)}`;
  const { seen, ...times } = await broadcast(marker, others + 1, () => adder.add(`${marker}.bin`));
  return { seen: Math.min(seen, others), ...times };
}

/** The median of as many rounds, of as many sockets and bytes, without a hub behind them. */
async function floor(count, rounds) {
  const loop = await bare(count, (port) => new Watching({ port }));
  const results = [];
  for (let round = 0; round < rounds; round += 1) {
    const marker = `bare-${random(8)}`;
    results.push(await broadcast(marker, count, () => loop.write(marker)));
  }
  loop.end();
  const middle = (key) => results.map((one) => one[key]).sort((a, b) => a - b)[rounds >> 1];
  return { p50_ms: middle("p50_ms"), p99_ms: middle("p99_ms"), max_ms: middle("max_ms") };
}

const [origin, clients, rounds] = process.argv.slice(2);
const started = performance.now();
const devices = await joinAll(Number(new URL(origin).port), Number(clients));
say({ connected: devices.length, connect_s: (performance.now() - started) / 1000 });
await once(createInterface({ input: process.stdin }), "line");
for (let round = 0; round < Number(rounds); round += 1) {
  say({ ...(await added(devices[round % devices.length], devices.length - 1, round)), ...missed(devices) });
}
say(await floor(devices.length, Number(rounds)));
process.exit(0);
