/** Runs the real binary: a hub in one process, a hub in two processes, and native devices. */
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Process, run } from "./processes.mjs";
import { until } from "./wait.mjs";

const TREE = fileURLToPath(new URL("../../../", import.meta.url));
/** A name that the browser does not take for loopback, so that the page has no secure context. */
export const HOST = "hub.test";
export const HUB_NAME = "Studio PC";

export function binary() {
  const target = process.env.CARGO_TARGET_DIR ?? path.join(TREE, "target");
  const places = [
    process.env.LANYARD_BIN,
    path.join(target, "release", "lanyard"),
    path.join(target, "proof", "lanyard"),
  ];
  const found = places.find((place) => place && existsSync(place));
  if (!found)
    throw new Error("no lanyard to test: cargo build --release, or name one in LANYARD_BIN");
  return found;
}

/** Runs `lanyard ARGS` to the end. With `--json` the output is in `json`. */
export async function lanyard(data, args, options) {
  const result = await run(binary(), ["--data", data, "--json", ...args], options);
  const lines = result.stdout.split("\n").filter((line) => line !== "");
  const parse = (line) => {
    try {
      return JSON.parse(line);
    } catch {
      throw new Error(`lanyard ${args.join(" ")} --json printed ${JSON.stringify(line)}`);
    }
  };
  return {
    ...result,
    lines: lines.map(parse),
    json: lines.length > 0 ? parse(lines.at(-1)) : undefined,
  };
}

/** Runs `lanyard` and expects exit code 0. */
export async function lanyardDone(data, args, options) {
  const result = await lanyard(data, args, options);
  if (result.code !== 0)
    throw new Error(`lanyard ${args.join(" ")} ended with ${result.code}: ${result.stderr}`);
  return result;
}

/** The common part of a hub in one process and a hub in two. */
class Reachable {
  get url() {
    return `http://${HOST}:${this.port}`;
  }

  /** The hub's address for programs that cannot resolve its name. */
  get local() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Returns a link of the page in a form that programs outside of the browser can open. */
  outside(link) {
    return link.replace(`http://${HOST}:`, "http://127.0.0.1:");
  }

  cli(...args) {
    return lanyard(this.data, args);
  }

  async devices() {
    return (await lanyardDone(this.data, ["devices"])).json;
  }

  async files() {
    return (await lanyardDone(this.data, ["files"])).json;
  }

  /** Waits for the join request of this name and its digits. */
  pending(name) {
    return until(`${name} knocks and shows its digits`, async () => {
      const rows = await this.devices();
      return rows.find((row) => row.name === name && row.membership === "pending" && row.code);
    });
  }

  /** Lets a device in through the terminal. */
  async approve(name) {
    const row = await this.pending(name);
    await lanyardDone(this.data, ["approve", row.public_id, "--code", row.code]);
    return row.public_id;
  }

  async consoleUrl() {
    return (await lanyardDone(this.data, ["console"])).json.url;
  }

  /** Waits until the hub lists the wanted files. */
  listed(what, fits) {
    return until(what, async () => fits(await this.files()));
  }
}

export class Hub extends Reachable {
  static async start(bench, { data = bench.dir("hub"), paths = [], args = [] } = {}) {
    const hub = new Hub();
    Object.assign(hub, { bench, data, paths, args, port: 0 });
    await hub.start();
    return hub;
  }

  /** Starts the hub, also after a kill, with the same data and port. */
  async start() {
    const args = [
      "--data",
      this.data,
      "--json",
      "--headless",
      "--listen",
      `127.0.0.1:${this.port}`,
      "--host",
      HOST,
      "--name",
      HUB_NAME,
    ];
    this.process = new Process(this.bench, "hub", binary(), [...args, ...this.args, ...this.paths]);
    this.ready = await this.process.event("ready");
    this.port = Number(this.ready.listen.split(":").at(-1));
  }

  /** The process of the relay, whose memory is measured. */
  get relayPid() {
    return this.process.pid;
  }

  event(what, from) {
    return this.process.event(what, from);
  }

  async restart(how = "SIGTERM") {
    await this.process.stop(how);
    await this.start();
  }
}

export class Halves extends Reachable {
  static async start(bench, { paths = [] } = {}) {
    const hub = new Halves();
    const secret = path.join(bench.dir("secret"), "master.secret");
    Object.assign(hub, {
      bench,
      paths,
      secret,
      data: bench.dir("master"),
      relayData: bench.dir("relay"),
      port: 0,
    });
    await hub.startRelay();
    await hub.startMaster();
    return hub;
  }

  async startRelay() {
    const args = [
      "relay",
      "--data",
      this.relayData,
      "--json",
      "--secret",
      this.secret,
      "--listen",
      `127.0.0.1:${this.port}`,
      "--host",
      HOST,
      "--name",
      HUB_NAME,
    ];
    this.relay = new Process(this.bench, "relay", binary(), args);
    const ready = await this.relay.event("ready");
    this.port = Number(ready.listen.split(":").at(-1));
  }

  async startMaster() {
    const args = [
      "master",
      "--data",
      this.data,
      "--json",
      "--headless",
      "--secret",
      this.secret,
      "--relay",
      this.local,
      "--name",
      HUB_NAME,
    ];
    this.master = new Process(this.bench, "master", binary(), [...args, ...this.paths]);
    await this.master.event("ready");
  }

  get relayPid() {
    return this.relay.pid;
  }

  /** Kills the process and starts it again. */
  async crashRelay() {
    await this.relay.kill9();
    await this.startRelay();
  }

  async crashMaster() {
    await this.master.kill9();
    await this.startMaster();
  }
}

/** A native device with a data directory of its own, let in by the host. */
export class Native {
  static async join(bench, hub, name) {
    const device = new Native();
    Object.assign(device, { bench, hub, name, data: bench.dir(name), base: hub.local });
    const joining = lanyard(device.data, ["join", device.base, "--name", name]);
    device.publicId = await hub.approve(name);
    const joined = await joining;
    if (joined.code !== 0) throw new Error(`join ended with ${joined.code}: ${joined.stderr}`);
    return device;
  }

  cli(...args) {
    return lanyard(this.data, args);
  }

  done(args, options) {
    return lanyardDone(this.data, args, options);
  }

  /** Shares until stopped. Returns once everything is listed. */
  async share(...paths) {
    const process = new Process(this.bench, `share-${this.name}`, binary(), [
      "--data",
      this.data,
      "--json",
      "share",
      ...paths,
    ]);
    await process.event("shared", 0, 120_000);
    return process;
  }

  /** Downloads in the background. */
  get(...args) {
    return new Process(this.bench, `get-${this.name}`, binary(), [
      "--data",
      this.data,
      "--json",
      "get",
      ...args,
    ]);
  }

  async link(what) {
    const { json } = await this.done(["link", what]);
    return typeof json === "string" ? json : json.url;
  }
}
