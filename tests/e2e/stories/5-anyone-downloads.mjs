/**
 * Story 5: a shared file is a URL, for a browser, for curl, for a player; and nobody holds a whole
 * file in memory.
 */
import assert from "node:assert/strict";
import path from "node:path";
import { FULL, inFull, story } from "../lib/bench.mjs";
import { PHONE } from "../lib/browser.mjs";
import {
  GIB,
  KIB,
  MIB,
  blake3,
  bytesBelow,
  isPrefix,
  makeFile,
  sha256,
  sizeOf,
} from "../lib/files.mjs";
import { Halves, Hub, Native } from "../lib/hub.mjs";
import { Line } from "../lib/line.mjs";
import { canMeasure, peakRssOf, peakWhile, pssOf, rssOf } from "../lib/measure.mjs";
import { DevicePage, countAsked } from "../lib/pages.mjs";
import { must } from "../lib/processes.mjs";
import { curl, curlUntil, ffprobe, head, makeFilm } from "../lib/tools.mjs";
import { until } from "../lib/wait.mjs";

const LARGE = inFull(GIB, 12 * MIB);
const LARGE_NAME = inFull("1 GiB", "12 MiB");
/** The rate of the short form's line, which gives the pages time to show running transfers. */
const SHORT_RATE = 6e6;

story(
  `${LARGE_NAME} from a tab reaches another browser, curl and lanyard get, alike and in little memory`,
  async (bench) => {
    const name = "Holiday film.mov";
    const [hub, film] = await Promise.all([
      Halves.start(bench),
      makeFile(bench.dir("ana"), name, LARGE),
    ]);
    const line = FULL ? null : await Line.open(bench, hub, SHORT_RATE);
    const [ana, ben, carl] = await Promise.all([
      DevicePage.enter(bench, hub, "Ana"),
      DevicePage.enter(bench, hub, "Ben", { url: line?.url }),
      Native.join(bench, hub, "Carl"),
    ]);
    await ana.shareFiles(film);
    await ben.sees(name);

    const dirs = [hub.data, hub.relayData, carl.data];
    const before = {
      disk: dirs.map(bytesBelow),
      relay: rssOf(hub.relayPid),
      ana: pssOf(ana.browser.pid),
      ben: pssOf(ben.browser.pid),
    };
    const started = Date.now();
    const peaks = { ana: 0, ben: 0 };
    const {
      result: [saved],
    } = await peakWhile(
      () => {
        peaks.ana = Math.max(peaks.ana, pssOf(ana.browser.pid));
        peaks.ben = Math.max(peaks.ben, pssOf(ben.browser.pid));
        return 0;
      },
      () =>
        Promise.all([
          ben.download(name, LARGE),
          ben.arriving(name).waitFor(),
          ana.leaving(name).waitFor(),
        ]),
    );
    bench.figure(`${LARGE_NAME}, tab to browser`, LARGE / 1e3 / (Date.now() - started), "MB/s");
    const relayGrowth = () => (peakRssOf(hub.relayPid) - before.relay) / MIB;
    const relay = { browser: relayGrowth() };
    const wanted = await sha256(film);
    assert.equal(await sha256(saved), wanted, "the browser's file");
    await ben
      .row(name)
      .getByText(/^Saved/)
      .waitFor();
    if (line) line.rate = Infinity;

    const link = hub.outside(await ben.copyLink(name));
    const byCurl = path.join(bench.dir("curl"), "film.mov");
    const curled = Date.now();
    await curl(link, byCurl);
    bench.figure(`${LARGE_NAME}, tab to curl`, LARGE / 1e3 / (Date.now() - curled), "MB/s");
    relay.curl = relayGrowth();
    assert.equal(await sha256(byCurl), wanted, "curl's file");

    const out = bench.dir("get");
    const got = Date.now();
    await carl.done(["get", name, "-o", out], { patience: 240_000 });
    bench.figure(`${LARGE_NAME}, tab to lanyard get`, LARGE / 1e3 / (Date.now() - got), "MB/s");
    relay.get = relayGrowth();
    assert.equal(await sha256(path.join(out, name)), wanted, "the native device's file");

    assert.equal(await ben.root(name), await blake3(film), "the root shown");
    assert.equal(await ana.root(name), await ben.root(name));
    assert.deepEqual([...ana.problems, ...ben.problems], []);

    const grown = dirs.map((dir, n) => bytesBelow(dir) - before.disk[n]);
    assert.ok(Math.max(...grown) < MIB, `the data directories grew by ${grown} bytes`);
    if (!canMeasure) return;
    const growth = { owner: (peaks.ana - before.ana) / MIB, asker: (peaks.ben - before.ben) / MIB };
    bench.figure("growth of the owner's browser", growth.owner, "MiB");
    bench.figure("growth of the asker's browser", growth.asker, "MiB");
    for (const [asker, grown] of Object.entries(relay))
      bench.figure(`growth of the relay up to the end of ${asker}`, grown, "MiB");
    assert.ok(growth.owner < 150, `the owner's browser grew by ${growth.owner} MiB`);
    assert.ok(growth.asker < 150, `the asker's browser grew by ${growth.asker} MiB`);
    assert.ok(relay.get < 48, `the relay grew by ${relay.get} MiB`);
  },
  { patience: 400_000 },
);

story(
  "curl -C - and wget -c go on in the middle, and the URL behaves as a resource",
  async (bench) => {
    const size = inFull(96, 12) * MIB + 4_321;
    const [hub, file] = await Promise.all([
      Hub.start(bench),
      makeFile(bench.dir("ana"), "disk image.iso", size),
    ]);
    const ana = await DevicePage.enter(bench, hub, "Ana");
    await ana.shareFiles(file);
    const link = hub.outside(await ana.copyLink("disk image.iso"));
    const wanted = await sha256(file);

    const { status, headers } = await head(link);
    assert.deepEqual(
      [status, Number(headers.get("content-length")), headers.get("accept-ranges")],
      [200, size, "bytes"],
    );
    assert.match(headers.get("etag"), /^"[0-9a-f-]+\.[0-9a-f-]+"$/);
    assert.match(
      headers.get("content-disposition"),
      /^attachment; filename="disk image.iso"; filename\*=UTF-8''disk%20image\.iso$/,
    );
    assert.equal(headers.get("x-content-type-options"), "nosniff");
    const part = await fetch(link, { headers: { Range: "bytes=1000000-1000099" } });
    assert.deepEqual(
      [part.status, part.headers.get("content-range")],
      [206, `bytes 1000000-1000099/${size}`],
    );
    assert.equal((await part.arrayBuffer()).byteLength, 100);
    const tail = await fetch(link, { headers: { Range: "bytes=-321" } });
    assert.equal((await tail.arrayBuffer()).byteLength, 321);
    assert.equal((await fetch(link, { headers: { Range: `bytes=${size}-` } })).status, 416);
    assert.equal(
      (await fetch(link, { headers: { "If-None-Match": headers.get("etag") } })).status,
      304,
    );

    for (const tool of ["curl", "wget"]) {
      const out = path.join(bench.dir(tool), "image.iso");
      const cut = await curlUntil(bench, link, out, inFull(8, 2) * MIB);
      assert.ok(
        cut < size && (await isPrefix(out, file)),
        "what is there is a beginning of the file",
      );
      await (tool === "curl"
        ? curl(link, out, "-C", "-")
        : must("wget", ["-q", "-c", "-O", out, link]));
      assert.equal(await sha256(out), wanted, `${tool} went on`);
    }
    const named = bench.dir("curl-O");
    await must("curl", ["-sS", "--fail", "-O", link], { cwd: named });
    assert.equal(
      sizeOf(path.join(named, new URL(link).pathname.split("/").at(-1))),
      size,
      "curl -O finds a name",
    );

    await ana.button("Stop sharing disk image.iso").click();
    await hub.listed("nothing", (files) => files.length === 0);
    await until("the link says that it is gone", async () =>
      [404, 410].includes((await head(link)).status),
    );
  },
);

story("an empty file and a strange name arrive as well", async (bench) => {
  const hub = await Hub.start(bench);
  const [ana, ben] = await Promise.all([
    DevicePage.enter(bench, hub, "Ana"),
    DevicePage.enter(bench, hub, "Ben"),
  ]);
  const dir = bench.dir("ana");
  const names = [
    ["empty.txt", 0],
    ["Küche & Söhne – 100 % “echt” 📁.bin", 3 * KIB],
    ["exactly one group.bin", 256 * KIB],
    ["one more.bin", 256 * KIB + 1],
  ];
  const files = await Promise.all(names.map(([name, size]) => makeFile(dir, name, size)));
  await ana.shareFiles(...files);
  for (const [n, [name, size]] of names.entries()) {
    await ben.sees(name);
    const link = hub.outside(await ben.copyLink(name));
    const out = path.join(bench.dir("curl"), "file");
    await curl(link, out);
    assert.equal(sizeOf(out), size);
    assert.equal(await sha256(out), await sha256(files[n]), name);
    await ben.startDownload(name);
    await ben
      .row(name)
      .getByText(/^Saved/)
      .waitFor();
  }
});

story(
  "a player reads the index at the end of a film without the owner sending the film",
  async (bench) => {
    const [hub, film] = await Promise.all([Hub.start(bench), makeFilm(bench.dir("ana"), 500e6)]);
    const ana = await DevicePage.enter(bench, hub, "Ana");
    const asked = countAsked(ana.page);
    await ana.page.reload();
    await ana.isIn();
    await ana.shareFiles(film);
    const size = sizeOf(film);
    const link = hub.outside(await ana.copyLink(path.basename(film)));
    const seen = await ffprobe(link);
    assert.equal(seen.streams[0].codec_type, "video");
    assert.equal(Number(seen.format.size), size);
    assert.ok(Number(seen.format.duration) > 10);
    assert.ok(asked.requests > 0, "the owner was asked");
    // Players seek and drop requests. The last request may still be running.
    bench.figure("film", size / 1e6, "MB");
    bench.figure("asked of its owner by ffprobe", (100 * asked.bytes) / size, "%");
    assert.ok(asked.bytes < 0.05 * size, `${asked.bytes} of ${size} bytes`);
    const { headers } = await head(link);
    assert.equal(headers.get("content-type"), "video/mp4");
  },
  // Only a large film can show that most of it is not read.
  { patience: 300_000, fullOnly: true },
);

story(
  "on a phone a link to a file of a long name is copied and ended within the screen",
  async (bench) => {
    const hub = await Hub.start(bench);
    const ana = await DevicePage.enter(bench, hub, "Ana", { viewport: PHONE });
    const name = `${"All-of-our-pictures-of-the-long-way-home-".repeat(3)}1.txt`;
    await ana.shareFiles(await makeFile(bench.dir("things"), name, KIB));
    await ana.menu(name, "Copy link");
    await ana.button("Activity").click();
    await ana.button("Your links").click();
    const end = ana.button(`End link to ${name}`);
    await end.waitFor();
    const { x, width } = await end.boundingBox();
    assert.ok(x >= 0 && x + width <= PHONE.width, `the button lies at ${x}`);
    await end.click();
    await ana.page.getByText("No links yet").waitFor();
  },
);
