/** Downloads one file with four devices at the same time, one of them ten times slower. */
import assert from "node:assert/strict";
import path from "node:path";
import { MIB, makeFile, sha256 } from "./files.mjs";
import { Halves, Native } from "./hub.mjs";
import { peakRssOf } from "./measure.mjs";
import { DevicePage, countAsked } from "./pages.mjs";
import { curl, startCurl } from "./tools.mjs";
import { within } from "./wait.mjs";

const PATIENCE = 900_000;

/**
 * Limits the slow device to a tenth of a single device's speed, or to `slowest` bytes per second
 * if that is less.
 */
export async function fanOut(bench, size, slowest = Infinity) {
  const [hub, film] = await Promise.all([
    Halves.start(bench),
    makeFile(bench.dir("ana"), "film.mov", size),
  ]);
  const [ana, ben, carl] = await Promise.all([
    DevicePage.enter(bench, hub, "Ana"),
    Native.join(bench, hub, "Ben"),
    Native.join(bench, hub, "Carl"),
  ]);
  const asked = countAsked(ana.page);
  await ana.page.reload();
  await ana.isIn();

  // Measures the speed of a single device; the slow one gets a tenth.
  const probe = await makeFile(bench.dir("ana"), "probe.bin", Math.min(size, 64 * MIB));
  await ana.shareFiles(probe, film);
  await ana.sees("film.mov");
  const started = Date.now();
  await curl(
    hub.outside(await ana.copyLink("probe.bin")),
    path.join(bench.dir("probe"), "probe.bin"),
  );
  const alone = Math.min(size, 64 * MIB) / ((Date.now() - started) / 1000);
  const rate = Math.floor(Math.min(alone / 10, slowest));

  const link = hub.outside(await ana.copyLink("film.mov"));
  const before = asked.bytes;
  const files = ["fast", "slow"].map((name) => path.join(bench.dir(name), "film.mov"));
  const outs = ["ben", "carl"].map((name) => bench.dir(name));
  const begun = Date.now();
  const askers = [
    startCurl(bench, "curl-fast", link, files[0]),
    startCurl(bench, "curl-slow", link, files[1], "--limit-rate", String(rate)),
    ben.get("film.mov", "-o", outs[0]),
    carl.get("film.mov", "-o", outs[1]),
  ];
  const seconds = [];
  await Promise.all(
    askers.map(async (asker, n) => {
      const { code } = await within(`${asker.name} is through`, asker.ended, PATIENCE);
      assert.equal(code, 0, `${asker.name}: ${asker.stderr}`);
      seconds[n] = (Date.now() - begun) / 1000;
    }),
  );
  const wanted = await sha256(film);
  for (const file of [...files, ...outs.map((out) => path.join(out, "film.mov"))])
    assert.equal(await sha256(file), wanted, file);
  const [first, slow, ...others] = seconds;
  return {
    factor: (asked.bytes - before) / size,
    peak: peakRssOf(hub.relayPid),
    quick: [first, ...others],
    slow,
    rate,
  };
}
