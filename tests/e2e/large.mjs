/**
 * Measures at full size: half an hour, 12 GB of scratch, one line per figure. Not part of
 * `tests/run`.
 *
 *   node large.mjs                      all
 *   node large.mjs memory fan-out      some of: memory, kills, fan-out, resumes, list, browser
 *
 * LANYARD_E2E_SEED repeats the points at which processes die.
 */
import assert from "node:assert/strict";
import {
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { onBench } from "./lib/bench.mjs";
import { fanOut } from "./lib/fan-out.mjs";
import { GIB, MIB, bytesBelow, makeFile, makeFolder, sha256, sizeOf } from "./lib/files.mjs";
import { Halves, Native, binary } from "./lib/hub.mjs";
import { Line } from "./lib/line.mjs";
import { peakRssOf, peakWhile, pssOf, rssOf } from "./lib/measure.mjs";
import { DevicePage, watchTasks } from "./lib/pages.mjs";
import { must } from "./lib/processes.mjs";
import { curlLoop } from "./lib/tools.mjs";
import { until, within } from "./lib/wait.mjs";

const LONG = 900_000;
const ROUNDS = 10;

/** A small generator, so that a seed repeats a run. */
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Sends a file from a tab to a browser, to curl and to lanyard get, and measures the growth of
 * relay and browsers.
 */
async function oneFile(bench, size) {
  const name = "film.mov";
  const [hub, film] = await Promise.all([
    Halves.start(bench),
    makeFile(bench.dir("ana"), name, size),
  ]);
  const [ana, ben, carl] = await Promise.all([
    DevicePage.enter(bench, hub, "Ana"),
    DevicePage.enter(bench, hub, "Ben"),
    Native.join(bench, hub, "Carl"),
  ]);
  await ana.shareFiles(film);
  await ben.sees(name);
  const wanted = await sha256(film);
  const dirs = [hub.data, hub.relayData, carl.data];
  const before = {
    relay: rssOf(hub.relayPid),
    ana: pssOf(ana.browser.pid),
    ben: pssOf(ben.browser.pid),
    disk: dirs.map(bytesBelow),
  };
  const peak = { ana: 0, ben: 0 };
  const sample = () => {
    for (const [who, page] of Object.entries({ ana, ben }))
      peak[who] = Math.max(peak[who], pssOf(page.browser.pid));
    return 0;
  };
  const { result: saved } = await peakWhile(sample, () => ben.download(name, size, LONG));
  assert.equal(await sha256(saved), wanted);
  rmSync(saved);
  const grown = () => (peakRssOf(hub.relayPid) - before.relay) / MIB;
  const relay = [grown()];
  const link = hub.outside(await ben.copyLink(name));
  const piped = async (...command) =>
    (
      await must("bash", ["-c", 'set -o pipefail; "$@" | sha256sum', "pipe", ...command], {
        patience: LONG,
      })
    ).stdout.split(" ")[0];
  assert.equal(await piped("curl", "-sS", "--fail", link), wanted);
  relay.push(grown());
  assert.equal(await piped(binary(), "--data", carl.data, "get", name, "-o", "-"), wanted);
  return {
    relay: grown(),
    byAsker: [...relay, grown()].map((mib) => mib.toFixed(1)).join(", "),
    owner: (peak.ana - before.ana) / MIB,
    asker: (peak.ben - before.ben) / MIB,
    disk: dirs.reduce((sum, dir, n) => sum + bytesBelow(dir) - before.disk[n], 0) / 1024,
  };
}

async function memory() {
  const figures = [];
  for (const size of [256 * MIB, 4 * GIB]) {
    const grown = await onBench(`memory ${size}`, (bench) => oneFile(bench, size));
    figures.push(grown);
    const { relay, byAsker, owner, asker, disk } = grown;
    console.log(
      `${size / MIB} MiB: relay +${relay.toFixed(1)} MiB (at the end of browser, curl, get: ${byAsker}), owner's browser +${owner.toFixed(1)} MiB, asker's browser +${asker.toFixed(1)} MiB, data directories +${disk} KiB`,
    );
  }
  console.log(
    `4 GiB against 256 MiB: relay ${(figures[1].relay - figures[0].relay).toFixed(1)} MiB more (at most 4)`,
  );
}

/** Downloads one file of zeros, of LANYARD_E2E_GIB, from `lanyard share` to a browser. */
async function browser() {
  const size = Number(process.env.LANYARD_E2E_GIB ?? 20) * GIB;
  await onBench("browser", async (bench) => {
    const hub = await Halves.start(bench);
    const film = path.join(bench.dir("ana"), "film.mov");
    writeFileSync(film, "");
    truncateSync(film, size);
    const [ben, carl] = [
      await DevicePage.enter(bench, hub, "Ben"),
      await Native.join(bench, hub, "Carl"),
    ];
    await carl.share(film);
    await ben.sees("film.mov");
    const before = [rssOf(hub.relayPid), pssOf(ben.browser.pid)];
    const started = Date.now();
    const { result: saved, peak } = await peakWhile(
      () => pssOf(ben.browser.pid),
      () => ben.download("film.mov", size, 4 * LONG),
    );
    const seconds = (Date.now() - started) / 1000;
    const [relay, page] = [(peakRssOf(hub.relayPid) - before[0]) / MIB, (peak - before[1]) / MIB];
    assert.equal(await sha256(saved), await sha256(film));
    rmSync(saved);
    assert.ok(page < 200, `the browser grew by ${page} MiB`);
    console.log(
      `${size / GIB} GiB to a browser in ${seconds.toFixed(0)} s: relay +${relay.toFixed(1)} MiB, browser +${page.toFixed(1)} MiB (at most 200)`,
    );
  });
}

/** Shares a hundred thousand files: one page is open while they are added, another opens later. */
async function list() {
  // As many files as a hub lists, less one that comes later.
  const count = 99_999;
  const shown = "99,999 files";
  await onBench("list", async (bench) => {
    const hub = await Halves.start(bench);
    const folder = makeFolder(bench.dir("ana"), "Archive", count, 1);
    const [ben, carl] = [
      await DevicePage.enter(bench, hub, "Ben"),
      await Native.join(bench, hub, "Carl"),
    ];
    const whole = (page) => page.row("Archive").getByText(shown).first().waitFor({ timeout: LONG });
    const worstOfBen = await watchTasks(ben.page);
    let started = Date.now();
    await carl.share(folder);
    const told = Date.now() - started;
    await whole(ben);
    const added = Date.now() - started;

    started = Date.now();
    const dora = await DevicePage.enter(bench, hub, "Dora");
    const worstOfDora = await watchTasks(dora.page);
    await whole(dora);
    const came = Date.now() - started;
    for (const page of [ben, dora]) {
      await page.button("Archive").click();
      await page.button("part 99").click();
      await page.page
        .getByRole("row", { name: /^file 49/ })
        .first()
        .waitFor();
      await page.button("Archive").click();
      await page.button("Everything").click();
      const find = page.page.getByRole("searchbox", { name: "Find a file" });
      started = Date.now();
      await find.fill("file 77777");
      await page.sees("file 77777.bin");
      page.found = Date.now() - started;
      await find.fill("");
      await page.row("Archive").waitFor();
    }
    const one = await makeFile(bench.dir("ben"), "one more.txt", 10);
    started = Date.now();
    await ben.shareFiles(one);
    await dora.sees("one more.txt");
    const more = Date.now() - started;
    const worst = [await worstOfBen(), await worstOfDora()];
    console.log(
      `${count} files: lanyard share says so after ${told} ms, an open page shows them after ${added} ms, one that comes later after ${came} ms with its knock; ` +
        `found among them in ${ben.found} and ${dora.found} ms, one more seen after ${more} ms; longest tasks ${worst.map(Math.round)} ms; ` +
        `relay ${(peakRssOf(hub.relayPid) / MIB).toFixed(0)} MiB, browsers ${[ben, dora].map((page) => (pssOf(page.browser.pid) / MIB).toFixed(0))} MiB`,
    );
    assert.deepEqual([...ben.problems, ...dora.problems], []);
    assert.ok(Math.max(...worst) < 1_000, "a page stood still");
  });
}

/**
 * Checks that every approved device is still in, and that the master got no new join request since
 * `start`.
 */
async function nobodyAsked(hub) {
  const rows = await hub.devices();
  assert.ok(
    rows.every(({ membership }) => membership === "approved"),
    JSON.stringify(rows),
  );
}

/**
 * Runs lanyard get, a curl loop and a browser's download ten times, and calls `lose` at random
 * points.
 */
async function rounds(what, lose) {
  const seed = Number(process.env.LANYARD_E2E_SEED ?? Date.now() % 1e9);
  const random = dice(seed);
  const size = 512 * MIB;
  await onBench(what, async (bench) => {
    const [hub, film] = await Promise.all([
      Halves.start(bench),
      makeFile(bench.dir("ana"), "film.mov", size),
    ]);
    const owners = await Line.open(bench, hub);
    const askers = await Line.open(bench, hub);
    const ana = await DevicePage.enter(bench, hub, "Ana", { url: owners.url });
    const ben = await DevicePage.enter(bench, hub, "Ben", { url: askers.url });
    const carl = await Native.join(bench, hub, "Carl");
    const downloads = await ben.browser.tab();
    await downloads.goto("chrome://downloads");
    await ana.shareFiles(film);
    await ben.sees("film.mov");
    const link = hub.outside(await ben.copyLink("film.mov"));
    const wanted = await sha256(film);
    let resumed = 0;
    for (let round = 1; round <= ROUNDS; round += 1) {
      const point = 0.1 + 0.8 * random();
      const dirs = { get: bench.dir("get"), curl: bench.dir("curl") };
      const started = Date.now();
      const byCurl = path.join(dirs.curl, "film.mov");
      const curl = curlLoop(bench, "curl", link, byCurl);
      const get = carl.get("film.mov", "-o", dirs.get);
      await ben.startDownload("film.mov");
      await until("the browser's download has begun", () => ben.have("film.mov") > 0);
      await until(`${what} at ${point}`, () => sizeOf(byCurl) >= point * size, LONG);
      const open =
        [curl, get].filter(({ exit }) => !exit).length + (ben.have("film.mov") < size ? 1 : 0);
      await lose({ hub, owners });
      assert.equal((await within("lanyard get", get.ended, LONG)).code, 0, get.stderr);
      await within("curl", curl.ended, LONG);
      const resume = downloads.getByRole("menuitem", { name: "Resume" }).first();
      await until(
        "the browser's download",
        async () => {
          const file = path.join(ben.browser.downloads, "film.mov");
          if (sizeOf(file) === size && sizeOf(`${file}.crdownload`) === 0) return true;
          if (await downloads.getByText("Failed - Network error").first().isVisible()) {
            await downloads.getByRole("button", { name: "More actions" }).first().click();
            await resume.click();
            resumed += 1;
            await downloads
              .getByText("Failed - Network error")
              .first()
              .waitFor({ state: "hidden" });
          }
          return false;
        },
        180_000,
      ).catch(async (error) => {
        throw new Error(
          `${error.message}; the browser says: ${(await downloads.getByRole("row").allInnerTexts()).join(" | ")}; the page: ${(await ben.page.getByRole("row").allInnerTexts()).join(" | ")}`,
        );
      });
      const saved = path.join(ben.browser.downloads, "film.mov");
      for (const file of [byCurl, path.join(dirs.get, "film.mov"), saved])
        assert.equal(await sha256(file), wanted, file);
      console.log(
        `${what} ${round}/${ROUNDS}: at ${Math.round(100 * point)} % with ${open} transfers open; all right after ${((Date.now() - started) / 1000).toFixed(1)} s`,
      );
      for (const dir of [dirs.get, dirs.curl]) rmSync(dir, { recursive: true });
      rmSync(saved);
      await nobodyAsked(hub);
      await ana.sees("film.mov");
      await ben.button("Download film.mov").waitFor({ timeout: 150_000 });
    }
    console.log(
      `${what}: ${ROUNDS} of ${ROUNDS} complete, hashes right, no new approval, browser's Resume used ${resumed} times (seed ${seed})`,
    );
  });
}

async function kills() {
  await rounds("relay killed", ({ hub }) => hub.crashRelay());
  await rounds("master killed", ({ hub }) => hub.crashMaster());
  await rounds("owner's line cut", async ({ hub, owners }) => {
    owners.cut();
    await until(
      "the owner is away",
      async () => (await hub.devices()).find(({ name }) => name === "Ana").presence === "away",
    );
    owners.mend();
  });
}

async function fan() {
  const { factor, peak, quick, slow, rate } = await onBench("fan-out", (bench) =>
    fanOut(bench, GIB),
  );
  console.log(
    `1 GiB to four askers: owner uploaded ${factor.toFixed(3)} times (at most 2.02), relay ${(peak / MIB).toFixed(1)} MiB (below 64), seconds ${quick.join(", ")}, the slow one ${slow} at ${(rate / 1e6).toFixed(1)} MB/s`,
  );
}

/**
 * Counts the bytes that the table beside an unfinished file marks as verified: a header of 48
 * bytes, then 40 per group.
 */
function notedBytes(dir, size) {
  const table = readdirSync(dir).find((name) => name.endsWith(".lanyard-have"));
  if (!table) return 0;
  const records = readFileSync(path.join(dir, table)).subarray(48);
  const group = size / Math.ceil(size / 2 ** Math.max(18, Math.ceil(Math.log2(size)) - 16));
  let groups = 0;
  for (let at = 0; at + 40 <= records.length; at += 40)
    if (records.subarray(at, at + 40).some((byte) => byte !== 0)) groups += 1;
  return groups * group;
}

/** Returns the bytes that the relay has sent to devices so far. */
async function delivered(hub) {
  const token = readFileSync(path.join(hub.data, "metrics.token"), "utf8");
  const text = await (
    await fetch(`${hub.local}/metrics`, { headers: { Authorization: `Bearer ${token}` } })
  ).text();
  return Number(/^lanyard_delivered_bytes_total\{to="device"\} (\d+)$/m.exec(text)[1]);
}

/**
 * Kills `lanyard get` of a 5 GiB file ten times at random points: verified bytes do not travel
 * again.
 */
async function resumes() {
  const seed = Number(process.env.LANYARD_E2E_SEED ?? Date.now() % 1e9);
  const random = dice(seed);
  const size = 5 * GIB;
  await onBench("resumes", async (bench) => {
    const [hub, film] = await Promise.all([
      Halves.start(bench),
      makeFile(bench.dir("ana"), "film.mov", size),
    ]);
    const [ana, carl] = [
      await Native.join(bench, hub, "Ana"),
      await Native.join(bench, hub, "Carl"),
    ];
    await ana.share(film);
    const dir = bench.dir("get");
    const points = Array.from({ length: ROUNDS }, random).sort((a, b) => a - b);
    let [noted, lost] = [0, 0];
    for (const point of points) {
      const before = await delivered(hub);
      const get = carl.get("film.mov", "-o", dir);
      await until(`${point}`, () => notedBytes(dir, size) >= point * size || get.exit, LONG);
      await get.kill9();
      const now = notedBytes(dir, size);
      lost += (await delivered(hub)) - before - (now - noted);
      noted = now;
    }
    const before = await delivered(hub);
    assert.equal(
      (await within("lanyard get", carl.get("film.mov", "-o", dir).ended, LONG)).code,
      0,
    );
    assert.equal(
      (await delivered(hub)) - before,
      size - noted,
      "the last run took what was missing, to the byte",
    );
    assert.equal(await sha256(path.join(dir, "film.mov")), await sha256(film));
    assert.ok(lost / ROUNDS <= 16 * MIB, "what was on its way at each kill");
    console.log(
      `5 GiB, killed ${ROUNDS} times: no verified byte travelled twice; ${(lost / ROUNDS / MIB).toFixed(1)} MiB a kill were on their way (seed ${seed})`,
    );
  });
}

const parts = { memory, kills, "fan-out": fan, resumes, list, browser };
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in parts));
if (unknown.length > 0)
  throw new Error(`there is no ${unknown.join(", ")}: ${Object.keys(parts).join(", ")}`);
process.env.LANYARD_E2E_ROOT = mkdtempSync(
  path.join(process.env.LANYARD_E2E_DIR || os.tmpdir(), "lanyard-large-"),
);
process.on("exit", () => rmSync(process.env.LANYARD_E2E_ROOT, { recursive: true, force: true }));
let failed = 0;
for (const name of wanted.length > 0 ? wanted : Object.keys(parts)) {
  try {
    await parts[name]();
  } catch (error) {
    failed += 1;
    console.log(`${name} FAILED: ${error.stack}`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
