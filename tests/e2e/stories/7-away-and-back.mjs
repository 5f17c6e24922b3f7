/**
 * Story 7: tabs close, lines break, processes die; downloads wait and go on, and nobody is asked
 * for approval again.
 */
import assert from "node:assert/strict";
import path from "node:path";
import { inFull, story } from "../lib/bench.mjs";
import { MIB, makeFile, sha256, sizeOf } from "../lib/files.mjs";
import { Halves, Hub, Native } from "../lib/hub.mjs";
import { Line } from "../lib/line.mjs";
import { DevicePage } from "../lib/pages.mjs";
import { curlLoop, startCurl } from "../lib/tools.mjs";
import { until, within } from "../lib/wait.mjs";

const SLOW = inFull(20e6, 4e6);
/** The size of the short form's film, which must not fit into the hub's memory. */
const SMALL = inFull([], ["--budget", "2M"]);
const MINUTES = 150_000;

/** Checks that every device was let in once, and that no join request is pending. */
async function nobodyAsked(hub, approvals) {
  const rows = await hub.devices();
  assert.ok(!rows.some(({ membership }) => membership === "pending"), "nobody knocks");
  const events = (hub.master ?? hub.process).events;
  assert.ok(events.filter(({ event }) => event === "device_approved").length <= approvals);
}

/** Has Ben's browser download a film from Ana's tab, over a slow line. */
async function midFilm(bench, size) {
  const [hub, film] = await Promise.all([
    Hub.start(bench, { args: SMALL }),
    makeFile(bench.dir("ana"), "film.mov", size),
  ]);
  const ana = await DevicePage.enter(bench, hub, "Ana");
  const line = await Line.open(bench, hub);
  const ben = await DevicePage.enter(bench, hub, "Ben", { url: line.url });
  await ana.shareFiles(film);
  await ben.sees("film.mov");
  line.rate = SLOW;
  await ben.startDownload("film.mov");
  await ben.halfway("film.mov", size / 8);
  return { hub, film, size, ana, line, ben };
}

/** Removes the line's limit, and waits for the end without a new approval. */
async function comesToItsEnd({ hub, film, size, line, ben }) {
  line.rate = Infinity;
  const saved = await ben.browser.downloaded("film.mov", size, MINUTES);
  assert.equal(await sha256(saved), await sha256(film));
  await nobodyAsked(hub, 3);
}

const presenceOfAna = async (hub) =>
  (await hub.devices()).find(({ name }) => name === "Ana").presence;

story(
  "a download waits while the owner's tab reloads, and continues once the file is picked again",
  async (bench) => {
    const scene = await midFilm(bench, inFull(128, 16) * MIB);
    const { hub, film, size, ana, line, ben } = scene;
    const link = hub.outside(await ana.copyLink("film.mov"));
    const byCurl = path.join(bench.dir("curl"), "film.mov");
    const curl = startCurl(bench, "curl", link, byCurl, "--limit-rate", inFull("20M", "4M"));
    await until("curl has begun", () => sizeOf(byCurl) > 0);
    await ana.page.reload();
    await ana.row("film.mov").getByText("Needs to be picked again after the reload").waitFor();
    await ben.row("film.mov").getByText("will continue").waitFor();
    const held = ben.have("film.mov");
    assert.ok(held < size, "it was in the middle");
    await ana.pickFiles(ana.button("Pick it again: film.mov"), [film]);
    line.rate = Infinity;
    const saved = await ben.browser.downloaded("film.mov", size, MINUTES);
    await ben
      .row("film.mov")
      .getByText(/^Saved/)
      .waitFor();
    const wanted = await sha256(film);
    assert.equal(await sha256(saved), wanted);
    assert.equal(
      (await within("curl is through", curl.ended, MINUTES)).code,
      0,
      "curl waited on one and the same connection",
    );
    assert.equal(await sha256(byCurl), wanted);
    await nobodyAsked(hub, 3);
  },
);

story(
  "a closed tab of the owner shows at once, and the download ends after the owner's return",
  async (bench) => {
    const scene = await midFilm(bench, inFull(96, 16) * MIB);
    const { hub, film, ana, ben } = scene;
    await ana.page.close();
    await ben.page.getByRole("log", { name: "Messages" }).getByText("Ana disconnected").waitFor();
    await ben.row("film.mov").getByText("Waiting for Ana").waitFor();
    await until("the terminal knows", async () => (await presenceOfAna(hub)) === "away");

    const back = await ana.anotherTab();
    await until("the terminal knows", async () => (await presenceOfAna(hub)) === "online");
    await back.shareFiles(film);
    await comesToItsEnd(scene);
  },
);

story(
  "a download waits while the owner's tab is frozen, and continues by itself",
  async (bench) => {
    const scene = await midFilm(bench, 128 * MIB);
    const { size, ana, line, ben } = scene;
    const browser = await ana.browser.context.newCDPSession(ana.page);
    // The page's scripts stand still, while the browser still answers pings on its socket. Browsers
    // freeze only hidden, idle tabs, which a headless browser does not have.
    await browser.send("Debugger.enable");
    await browser.send("Debugger.pause");
    line.rate = Infinity;
    await ben.row("film.mov").getByText("Waiting for Ana").waitFor({ timeout: MINUTES });
    assert.ok(ben.have("film.mov") < size, "it was in the middle");
    await browser.send("Debugger.resume");
    await comesToItsEnd(scene);
  },
  { fullOnly: true },
);

story(
  "a crashed tab of the owner shows at once, and picking the file again ends the download",
  async (bench) => {
    const scene = await midFilm(bench, inFull(96, 16) * MIB);
    const { hub, film, ana, ben } = scene;
    const browser = await ana.browser.context.newCDPSession(ana.page);
    // A page that has gone does not answer.
    browser.send("Page.crash").catch(() => undefined);
    await ben.row("film.mov").getByText("Waiting for Ana").waitFor();
    await until("the terminal knows", async () => (await presenceOfAna(hub)) === "away");
    const back = await ana.anotherTab();
    await back.shareFiles(film);
    await comesToItsEnd(scene);
  },
);

story("the line drops and comes back: the owner's page and the asker's go on", async (bench) => {
  const size = inFull(96, 16) * MIB;
  const [hub, film] = await Promise.all([
    Hub.start(bench, { args: SMALL }),
    makeFile(bench.dir("ana"), "film.mov", size),
  ]);
  const line = await Line.open(bench, hub);
  const bens = await Line.open(bench, hub, inFull(Infinity, SLOW));
  const ana = await DevicePage.enter(bench, hub, "Ana", { url: line.url });
  const ben = await DevicePage.enter(bench, hub, "Ben", { url: bens.url });
  const carl = await Native.join(bench, hub, "Carl");
  await ana.shareFiles(film);
  await ben.sees("film.mov");
  await ben.shareFiles(await makeFile(bench.dir("ben"), "notes.txt", 5));
  await ana.sees("notes.txt");
  const out = bench.dir("get");
  const get = carl.get("film.mov", "-o", out);
  await ben.startDownload("film.mov");
  await ben.halfway("film.mov", MIB);
  line.cut();
  await ana.page
    .getByRole("status")
    .getByText(/stepped away|Looking for/)
    .first()
    .waitFor();
  // Ana cannot know what became of Ben's device.
  await ana.page.getByRole("button", { name: "Ben Can’t tell right now" }).waitFor();
  assert.equal(await ana.row("notes.txt").getByText("Away until").count(), 0);
  await ben.row("film.mov").getByText("Waiting for Ana").waitFor();
  assert.ok(ben.have("film.mov") < size, "it was in the middle");
  line.mend();
  bens.rate = Infinity;
  const saved = await ben.browser.downloaded("film.mov", size, MINUTES);
  const wanted = await sha256(film);
  assert.equal(await sha256(saved), wanted);
  assert.equal((await within("get is through", get.ended, MINUTES)).code, 0);
  assert.equal(await sha256(path.join(out, "film.mov")), wanted);
  assert.ok(await ana.row("film.mov").isVisible());
  await ana.page.getByRole("button", { name: "Ben 1 file" }).waitFor();
  await nobodyAsked(hub, 4);
});

story(
  "lanyard get and a curl loop survive the death of relay and master in mid-transfer",
  async (bench) => {
    const size = inFull(300, 16) * MIB;
    const [hub, film] = await Promise.all([
      Halves.start(bench),
      makeFile(bench.dir("ana"), "film.mov", size),
    ]);
    const [ana, carl] = await Promise.all([
      DevicePage.enter(bench, hub, "Ana"),
      Native.join(bench, hub, "Carl"),
    ]);
    await ana.shareFiles(film);
    await hub.listed("the film", (files) => files.length === 1);
    const link = hub.outside(await ana.copyLink("film.mov"));
    const wanted = await sha256(film);

    for (const victim of ["relay", "master"]) {
      const out = bench.dir(`get-${victim}`);
      const byCurl = path.join(bench.dir(`curl-${victim}`), "film.mov");
      const curl = curlLoop(bench, "curl", link, byCurl, "--limit-rate", inFull("60M", "4M"));
      await until("curl has a quarter", () => sizeOf(byCurl) > size / 4);
      const get = carl.get("film.mov", "-o", out, ...inFull([], ["--limit-down", "4M"]));
      await get.event(
        ({ event, done, total }) => event === "progress" && done > total / 10,
        0,
        MINUTES,
      );
      assert.equal(curl.exit, null, "curl is in the middle");
      await (victim === "relay" ? hub.crashRelay() : hub.crashMaster());
      const ended = await within("lanyard get is through", get.ended, MINUTES);
      assert.equal(ended.code, 0, `${victim}: ${get.stderr}`);
      assert.equal(
        await sha256(path.join(out, "film.mov")),
        wanted,
        `lanyard get, ${victim} killed`,
      );
      await within("curl is through", curl.ended, MINUTES);
      assert.equal(await sha256(byCurl), wanted, `curl, ${victim} killed`);
    }
    await ana.isIn();
    assert.ok(await ana.row("film.mov").isVisible(), "it is still shared");
    assert.equal((await carl.done(["ls"])).json.length, 1);
    assert.ok((await hub.devices()).every(({ membership }) => membership === "approved"));
    assert.ok(
      !hub.master.events.some(({ event }) => event === "device_pending"),
      "the new master was asked for nothing",
    );
  },
  { patience: 400_000 },
);

story(
  "a browser's download survives the master's death, and the relay's by the browser's own Resume",
  async (bench) => {
    const size = inFull(160, 16) * MIB;
    const [hub, film] = await Promise.all([
      Halves.start(bench),
      makeFile(bench.dir("ana"), "film.mov", size),
    ]);
    const ana = await DevicePage.enter(bench, hub, "Ana");
    const line = await Line.open(bench, hub);
    const ben = await DevicePage.enter(bench, hub, "Ben", { url: line.url });
    await ana.shareFiles(film);
    await ben.sees("film.mov");
    const wanted = await sha256(film);

    line.rate = SLOW;
    await ben.startDownload("film.mov");
    await ben.halfway("film.mov", size / 8);
    await hub.crashMaster();
    assert.ok(ben.have("film.mov") < size, "it was in the middle");
    await ben.halfway("film.mov", size / 4);
    assert.ok(await ben.arriving("film.mov").isVisible());

    const downloads = await ben.browser.tab();
    await downloads.goto("chrome://downloads");
    await hub.relay.kill9();
    await downloads.getByText("Failed - Network error").waitFor();
    line.rate = Infinity;
    await hub.startRelay();
    for (const device of [ana, ben])
      await device.button(device === ana ? "Stop sharing film.mov" : "More for film.mov").waitFor();
    await until("the owner's page is back", async () => (await presenceOfAna(hub)) === "online");
    await ben
      .row("film.mov")
      .getByText(/Resume/)
      .waitFor();
    await downloads.getByRole("button", { name: "More actions" }).click();
    await downloads.getByRole("menuitem", { name: "Resume" }).click();
    const saved = await ben.browser.downloaded("film.mov", size, MINUTES);
    await ben
      .row("film.mov")
      .getByText(/^Saved/)
      .waitFor();
    assert.equal(await sha256(saved), wanted);
    assert.ok((await hub.devices()).every(({ membership }) => membership === "approved"));
  },
  { patience: 300_000 },
);

story(
  "two tabs of one device both share, and lanyard share lives beside lanyard get",
  async (bench) => {
    const size = 12 * MIB;
    const dir = bench.dir("files");
    const names = ["one.bin", "two.bin", "three.bin"];
    const [hub, ...files] = await Promise.all([
      Hub.start(bench),
      ...names.map((name) => makeFile(dir, name, size)),
    ]);
    const first = await DevicePage.enter(bench, hub, "Ana");
    const second = await first.anotherTab();
    const ben = await DevicePage.enter(bench, hub, "Ben");
    await first.shareFiles(files[0]);
    await second.shareFiles(files[1]);
    for (const page of [first, second, ben])
      for (const name of ["one.bin", "two.bin"]) await page.sees(name);
    assert.equal((await hub.devices()).filter(({ name }) => name === "Ana").length, 1);
    for (const n of [0, 1])
      assert.equal(await sha256(await ben.download(names[n], size)), await sha256(files[n]));
    // One tab closes. Its files go with it, and the others stay readable.
    await first.page.close();
    await until("only the other tab is asked", async () => (await presenceOfAna(hub)) === "online");

    const carl = await Native.join(bench, hub, "Carl");
    const sharing = await carl.share(files[2]);
    await ben.sees("three.bin");
    const out = bench.dir("get");
    const [got, saved] = await Promise.all([
      carl.done(["get", "two.bin", "-o", out]),
      ben.download("three.bin", size),
    ]);
    assert.equal(got.code, 0);
    assert.equal(await sha256(path.join(out, "two.bin")), await sha256(files[1]));
    assert.equal(await sha256(saved), await sha256(files[2]));
    assert.equal(sharing.exit, null, "it shares on");
  },
);

story("a duplicated tab is another tab: both stay, and both share", async (bench) => {
  const size = 3 * MIB;
  const dir = bench.dir("files");
  const [hub, one, two] = await Promise.all([
    Hub.start(bench),
    makeFile(dir, "one.bin", size),
    makeFile(dir, "two.bin", size),
  ]);
  const first = await DevicePage.enter(bench, hub, "Ana");
  await first.shareFiles(one);
  await first.sees("one.bin");
  const kept = (tab, name) => tab.page.evaluate((key) => sessionStorage.getItem(key), name);
  const instance = (tab) => kept(tab, "lanyard.instance");
  const before = await instance(first);
  await first.page.evaluate(() => sessionStorage.setItem("copied", "along"));
  const copy = await first.duplicate();
  assert.equal(await kept(copy, "copied"), "along", "it began with all that the first one keeps");
  assert.equal(await instance(first), before);
  assert.notEqual(await instance(copy), before);
  await copy.shareFiles(two);
  const ben = await DevicePage.enter(bench, hub, "Ben");
  for (const page of [first, copy, ben])
    for (const name of ["one.bin", "two.bin"]) await page.sees(name);
  for (const file of [one, two])
    assert.equal(await sha256(await ben.download(path.basename(file), size)), await sha256(file));
  assert.equal((await hub.devices()).filter(({ name }) => name === "Ana").length, 1);
});
