/**
 * Runs the stories against the real binary and real Chromium. The last line is
 * "N passed, N failed".
 *
 *   node run.mjs            the short form of all stories
 *   node run.mjs 2 5        those whose file names begin so
 *
 * LANYARD_FULL=1 plays the whole of each story, with large files and long waits.
 * LANYARD_BIN names the binary (else target/release, then target/proof), LANYARD_BROWSER the
 * browser ("playwright" for its own download), LANYARD_E2E_DIR a place with 8 GB to spare.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { FULL, scratch } from "./lib/bench.mjs";
import { executable } from "./lib/browser.mjs";
import { binary } from "./lib/hub.mjs";

const stories = fileURLToPath(new URL("./stories/", import.meta.url));
const reporter = fileURLToPath(new URL("./lib/reporter.mjs", import.meta.url));
const wanted = process.argv.slice(2);
const files = readdirSync(stories)
  .filter(
    (name) =>
      name.endsWith(".mjs") &&
      (wanted.length === 0 || wanted.some((prefix) => name.startsWith(prefix))),
  )
  .sort()
  .map((name) => path.join(stories, name));

const base = scratch();
rmSync(new URL("./out/", import.meta.url), { recursive: true, force: true });
mkdirSync(base, { recursive: true });
process.env.LANYARD_E2E_ROOT = mkdtempSync(path.join(base, "lanyard-e2e-"));
const cleanUp = () =>
  rmSync(process.env.LANYARD_E2E_ROOT, {
    recursive: true,
    force: true,
    maxRetries: 5,
    retryDelay: 200,
  });
process.on("exit", cleanUp);

console.log(`lanyard: ${binary()}\nbrowser: ${executable()}`);
/** Runs several stories at a time, if their figures and timeouts do not depend on each other. */
const TOGETHER = FULL ? 1 : 2;
const running = new Set();

/** Ends the stories and their processes first, then removes their directory. */
async function stop() {
  for (const { child } of running) child.kill("SIGTERM");
  await Promise.all([...running].map(({ ended }) => ended));
  process.exit(130);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, stop);
// The reader of the output has gone, as `head` does.
process.stdout.once("error", stop);

let passed = 0;
let failed = 0;
let left = 0;

async function play(file) {
  const child = spawn(
    process.execPath,
    [`--test-reporter=${reporter}`, "--test-reporter-destination=stdout", file],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const ended = once(child, "close");
  const one = { child, ended };
  running.add(one);
  let told = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    console.log(line);
    if (line.startsWith("✔ ")) passed += 1;
    if (line.startsWith("✖ ")) told += 1;
    if (line.startsWith("- ")) left += 1;
  }
  const [code] = await ended;
  running.delete(one);
  // A file that could not be run counts as one failure.
  failed += code === 0 ? told : Math.max(told, 1);
}

if (files.length === 0) failed = 1;
const waiting = [...files];
const playNext = async () => {
  for (let file = waiting.shift(); file; file = waiting.shift()) await play(file);
};
await Promise.all(Array.from({ length: TOGETHER }, playNext));
if (left > 0)
  console.log(`\n${left} checks are left to tests/run --full, and most others are shorter`);
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
