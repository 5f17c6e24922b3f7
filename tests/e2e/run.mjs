/**
 * Runs the stories against the real binary and real Chromium. The last line is "N passed, N failed".
 *
 *   node run.mjs            all stories
 *   node run.mjs 2 5        those whose file names begin so
 *
 * LANYARD_BIN names the binary (else target/release, then target/proof), LANYARD_BROWSER the browser ("playwright" for
 * its own download), LANYARD_E2E_DIR a place with 8 GB to spare.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";
import { scratch } from "./lib/bench.mjs";
import { executable } from "./lib/browser.mjs";
import { binary } from "./lib/hub.mjs";

const stories = fileURLToPath(new URL("./stories/", import.meta.url));
const wanted = process.argv.slice(2);
const files = readdirSync(stories)
  .filter((name) => name.endsWith(".mjs") && (wanted.length === 0 || wanted.some((prefix) => name.startsWith(prefix))))
  .sort()
  .map((name) => path.join(stories, name));

const base = scratch();
rmSync(new URL("./out/", import.meta.url), { recursive: true, force: true });
mkdirSync(base, { recursive: true });
process.env.LANYARD_E2E_ROOT = mkdtempSync(path.join(base, "lanyard-e2e-"));
const cleanUp = () => rmSync(process.env.LANYARD_E2E_ROOT, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
process.on("exit", cleanUp);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));

console.log(`lanyard: ${binary()}\nbrowser: ${executable()}`);
let passed = 0;
let failed = 0;
/** A file counts only when it could not be run at all; else its stories do. */
const isStory = ({ nesting, name, details }) => details?.type !== "suite" && !(nesting === 0 && files.includes(path.resolve(name)) && details?.error?.failureType === "subtestsFailed");
const stream = run({ files, concurrency: 1 });
stream.on("test:pass", (event) => isStory(event) && !event.skip && (passed += 1));
stream.on("test:fail", (event) => isStory(event) && (failed += 1));
stream.compose(new spec()).pipe(process.stdout);
stream.on("end", () => {
  // After the reporter's own summary.
  setImmediate(() => {
    if (passed === 0) failed = Math.max(failed, 1);
    console.log(`\n${passed} passed, ${failed} failed`);
    process.exitCode = failed === 0 ? 0 : 1;
  });
});
