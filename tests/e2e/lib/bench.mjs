/** Provides a story's bench: a directory of its own, its processes, and screenshots of failures. */
import {
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statfsSync,
} from "node:fs";
import { copyFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const OUT = fileURLToPath(new URL("../out/", import.meta.url));
const STORY_MS = 240_000;

const plain = (name) => name.replace(/[^\w]+/g, "-").slice(0, 60);

const ROOM = 8 * 1024 ** 3;

/**
 * Returns where a run may write: LANYARD_E2E_DIR, else memory if there is plenty, else the
 * system's temporary directory. In memory ten thousand files come and go within a second.
 */
export function scratch() {
  if (process.env.LANYARD_E2E_DIR) return process.env.LANYARD_E2E_DIR;
  try {
    const { bavail, bsize } = statfsSync("/dev/shm");
    const available =
      Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))[1]) * 1024;
    if (bavail * bsize > ROOM && available > 1.5 * ROOM) return "/dev/shm";
  } catch {
    // This system has no such directory.
  }
  return os.tmpdir();
}

/** The directory of all benches of this run. `run.mjs` creates and removes it. */
function root() {
  return process.env.LANYARD_E2E_ROOT ?? scratch();
}

/** True for the full form of each story, as `tests/run --full` runs it. */
export const FULL = process.env.LANYARD_FULL === "1";

/** Returns the first value for the full form of a story, the second for the short form. */
export const inFull = (whole, short) => (FULL ? whole : short);

/**
 * Defines one check of a story. `run` gets a fresh bench, which is removed whatever happens.
 *
 * With `fullOnly` the short form leaves the check out.
 */
export function story(name, run, { patience = STORY_MS, fullOnly = false } = {}) {
  const skip = fullOnly && !FULL;
  test(name, { timeout: patience, skip }, (t) => onBench(name, run, (text) => t.diagnostic(text)));
}

export async function onBench(name, run, tell = (text) => console.log(text)) {
  const bench = new Bench(name, tell);
  try {
    return await run(bench);
  } catch (error) {
    await bench.keepEvidence(error).catch((trouble) => tell(`no evidence: ${trouble.message}`));
    throw error;
  } finally {
    await bench.close();
  }
}

export class Bench {
  #closers = [];
  #count = 0;
  /** The pages and log files to keep if the story fails. */
  pages = new Map();
  logs = new Map();

  constructor(name, tell) {
    this.name = name;
    this.tell = tell;
    mkdirSync(root(), { recursive: true });
    this.home = mkdtempSync(path.join(root(), "lanyard-bench-"));
  }

  /** Creates a fresh directory. */
  dir(name) {
    this.#count += 1;
    const dir = path.join(this.home, `${this.#count}-${plain(name)}`);
    mkdirSync(dir, { recursive: true });
    return dir;
  }

  /** Opens a log file for a process. */
  log(name) {
    this.#count += 1;
    const file = path.join(this.home, `${this.#count}-${plain(name)}.log`);
    this.logs.set(`${this.#count}-${name}`, file);
    return createWriteStream(file);
  }

  /** Registers a function to call at the end of the story, in reverse order. */
  onClose(close) {
    this.#closers.push(close);
  }

  figure(name, value, unit) {
    const text = typeof value === "number" ? Number(value.toFixed(value < 10 ? 3 : 1)) : value;
    this.tell(`figure: ${name}: ${text}${unit ? ` ${unit}` : ""}`);
  }

  async keepEvidence(error) {
    const dir = path.join(OUT, plain(this.name));
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    for (const [name, page] of this.pages) {
      await page
        .screenshot({ path: path.join(dir, `${plain(name)}.png`), timeout: 5_000 })
        .catch(() => undefined);
    }
    for (const [name, file] of this.logs)
      await copyFile(file, path.join(dir, `${plain(name)}.log`)).catch(() => undefined);
    this.tell(
      `evidence of "${error.message.split("\n")[0]}" in ${path.relative(process.cwd(), dir)}`,
    );
  }

  async close() {
    for (const close of this.#closers.reverse()) {
      try {
        await close();
      } catch (error) {
        this.tell(`closing: ${error.message}`);
      }
    }
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}
