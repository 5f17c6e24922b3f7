/** Starts processes, reads their output, and stops them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { final, until, within } from "./wait.mjs";

/**
 * Ends all processes with this one: a hub that outlives its test would keep its port and memory.
 */
const living = new Set();

function watchOver(child) {
  if (!watchOver.begun) {
    watchOver.begun = true;
    process.on("exit", () => living.forEach((one) => one.kill("SIGKILL")));
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));
  }
  living.add(child);
}

/** A process that writes JSON lines, or nothing, to its standard output. */
export class Process {
  events = [];
  exit = null;

  constructor(bench, name, command, args, options = {}) {
    this.name = name;
    this.child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    this.pid = this.child.pid;
    watchOver(this.child);
    this.stderr = "";
    const log = bench.log(name);
    log.write(`$ ${[command, ...args].join(" ")}\n`);
    this.child.stderr.on("data", (bytes) => {
      this.stderr = (this.stderr + bytes).slice(-20_000);
      if (log.writable) log.write(bytes);
    });
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      if (log.writable) log.write(`${line}\n`);
      try {
        this.events.push(JSON.parse(line));
      } catch {
        this.events.push({ event: "text", text: line });
      }
    });
    this.ended = new Promise((resolve) => {
      this.child.on("error", (error) => resolve((this.exit = { code: null, signal: null, error })));
      this.child.on("close", (code, signal) => resolve((this.exit = { code, signal })));
    }).finally(() => {
      living.delete(this.child);
      log.end();
    });
    bench.onClose(() => this.kill9());
  }

  /** Waits for the first matching event from number `from` on. */
  event(what, from = 0, patience) {
    const fits = typeof what === "string" ? (event) => event.event === what : what;
    return until(
      `${this.name} says ${what}`,
      () => {
        const found = this.events.slice(from).find(fits);
        if (!found && this.exit)
          throw final(
            `${this.name} ended with ${JSON.stringify(this.exit)}: ${this.stderr.slice(-2_000)}`,
          );
        return found;
      },
      patience,
    );
  }

  async stop(signal = "SIGTERM") {
    if (!this.exit) this.child.kill(signal);
    return within(`${this.name} ends`, this.ended, 15_000);
  }

  async kill9() {
    if (!this.exit) this.child.kill("SIGKILL");
    return within(`${this.name} dies`, this.ended, 15_000);
  }
}

/** Runs a program to the end. Does not throw for an exit code. */
export async function run(command, args, { input, patience = 120_000, ...options } = {}) {
  const child = spawn(command, args, {
    stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    ...options,
  });
  const out = [];
  let stderr = "";
  child.stdout.on("data", (bytes) => out.push(bytes));
  child.stderr.on("data", (bytes) => (stderr = (stderr + bytes).slice(-100_000)));
  if (input !== undefined) child.stdin.end(input);
  try {
    const [code, signal] = await within(
      `${command} ${args.join(" ")}`,
      once(child, "close"),
      patience,
    );
    return { code, signal, stdout: Buffer.concat(out).toString(), stderr };
  } finally {
    if (child.exitCode === null) child.kill("SIGKILL");
  }
}

/** Runs a program and expects success. */
export async function must(command, args, options) {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${command} ${args.join(" ")} ended with ${result.code ?? result.signal}\n${result.stdout.slice(-2_000)}\n${result.stderr.slice(-2_000)}`,
    );
  }
  return result;
}
