// Promise: the page stays small, and nothing in the page needs what its own policy forbids.
// @vitest-environment node
import { gzipSync } from "node:zlib";
import { type InlineConfig, build } from "vite";
import { beforeAll, expect, test, vi } from "vitest";

interface Output {
  fileName: string;
  code?: string;
  source?: string | Uint8Array;
}

let files: Output[] = [];
const bytesOf = (file: Output) => Buffer.from(file.code ?? file.source ?? "");
const gzipped = (ending: RegExp) =>
  files
    .filter(({ fileName }) => ending.test(fileName))
    .reduce((sum, file) => sum + gzipSync(bytesOf(file)).length, 0);
const text = (fileName: string) =>
  bytesOf(files.find((file) => file.fileName === fileName) ?? { fileName }).toString();

beforeAll(async () => {
  // The mode of the release build: a test's own environment would add development code.
  vi.stubEnv("NODE_ENV", "production");
  const quiet: InlineConfig = { mode: "production", logLevel: "silent", build: { write: false } };
  const built = await build(quiet);
  files = (Array.isArray(built) ? built : [built]).flatMap((one) =>
    "output" in one ? (one.output as Output[]) : [],
  );
}, 60_000);

/** Lists the files that one page loads: the page itself and everything it imports. */
function loadedBy(page: string): number {
  const seen = new Set<string>();
  const queue = [page];
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const content = text(name);
    for (const { fileName } of files) {
      const base = fileName.split("/").at(-1) ?? "";
      if (/\.(js|css)$/.test(base) && content.includes(base) && !seen.has(fileName)) {
        seen.add(fileName);
        queue.push(fileName);
      }
    }
  }
  return [...seen].reduce((sum, name) => sum + gzipSync(text(name)).length, 0);
}

// 82 kB before version 2 of the wire: agreeing on a key (X25519), the lists of links and what their
// screens say take 5 kB.
test.each(["index.html", "console.html"])(
  "%s loads at most 88 kB of scripts and styles",
  (page) => {
    expect(loadedBy(page)).toBeGreaterThan(10_000);
    expect(loadedBy(page)).toBeLessThanOrEqual(88_000);
  },
);

test("the fonts are at most 80 kB", () => {
  expect(gzipped(/\.woff2$/)).toBeGreaterThan(50_000);
  expect(gzipped(/\.woff2$/)).toBeLessThanOrEqual(80_000);
});

test("nothing is inline: no script, no style, no data URL", () => {
  for (const page of ["index.html", "console.html"]) {
    expect(text(page)).not.toMatch(/<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=/);
  }
  for (const { fileName } of files.filter(({ fileName }) => fileName.endsWith(".css")))
    expect(text(fileName)).not.toContain("data:");
});

test("nothing needs a secure context to start", () => {
  for (const { fileName } of files.filter(({ fileName }) => fileName.endsWith(".js"))) {
    expect(text(fileName)).not.toMatch(
      /randomUUID|serviceWorker|navigator\.clipboard|showSaveFilePicker/,
    );
  }
});
