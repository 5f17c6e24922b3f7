/** Story 5, folders: ten thousand files are one row, one click and one archive. */
import assert from "node:assert/strict";
import { renameSync } from "node:fs";
import path from "node:path";
import { inFull, story } from "../lib/bench.mjs";
import { KIB, MIB, makeFile, makeFolder, sha256, tree, treeDigest } from "../lib/files.mjs";
import { Hub, Native } from "../lib/hub.mjs";
import { DevicePage, watchTasks } from "../lib/pages.mjs";
import { checkArchive, curl, head, unpack } from "../lib/tools.mjs";

const COUNT = inFull(10_000, 600);
const FILES = `${COUNT.toLocaleString("en-US")} files`;
const LAST = String(COUNT - 1).padStart(5, "0");
const LAST_PART = `part ${String(Math.floor((COUNT - 1) / 500)).padStart(2, "0")}`;
/** The longest task after which a page counts as frozen. */
const FROZEN_MS = 1_000;

/**
 * Downloads the folder's zip by its link and the folder by `lanyard get`, and compares both with
 * the original.
 */
async function fetchAll(bench, link, native, folder) {
  const name = path.basename(folder);
  const wanted = treeDigest(folder);
  const archive = path.join(bench.dir("zip"), `${name}.zip`);
  const started = Date.now();
  await curl(link, archive);
  bench.figure(`zip of ${FILES}`, Date.now() - started, "ms");
  await checkArchive(archive, COUNT);
  const unpacked = await unpack(archive, bench.dir("unzip"));
  assert.equal(treeDigest(path.join(unpacked, name)), wanted, "what the zip holds");
  const out = bench.dir("get");
  const got = Date.now();
  await native.done(["get", name, "-o", out], { patience: 240_000 });
  bench.figure(`lanyard get of ${FILES}`, Date.now() - got, "ms");
  assert.equal(treeDigest(path.join(out, name)), wanted, "what lanyard get saved");
}

story(
  `${FILES} from a tab: listed without freezing, fetched whole as a zip and by lanyard get`,
  async (bench) => {
    const hub = await Hub.start(bench);
    const folder = makeFolder(bench.dir("ana"), "Archive", COUNT, 4 * KIB);
    const [ana, ben, carl] = await Promise.all([
      DevicePage.enter(bench, hub, "Ana"),
      DevicePage.enter(bench, hub, "Ben"),
      Native.join(bench, hub, "Carl"),
    ]);
    const [worstOfAna, worstOfBen] = await Promise.all([
      watchTasks(ana.page),
      watchTasks(ben.page),
    ]);
    const started = Date.now();
    await ana.shareFolder(folder);
    await hub.listed("all files", (files) => files.length === COUNT);
    await ben.page
      .getByRole("row", { name: "Archive", exact: true })
      .getByText(FILES)
      .first()
      .waitFor();
    bench.figure(`${FILES} listed from a tab`, Date.now() - started, "ms");
    await ben.button("Archive").click();
    await ben.button(LAST_PART).click();
    await ben.page.getByRole("grid", { name: "Shared files" }).getByRole("row").first().waitFor();
    await ben.button("Archive").click();
    await ben.button("Everything").click();
    const find = ben.page.getByRole("searchbox", { name: "Find a file" });
    await find.fill(`file ${LAST}`);
    await ben.sees(`file ${LAST}.bin`);
    await find.fill("");
    const worst = { ana: await worstOfAna(), ben: await worstOfBen() };
    bench.figure("longest task of the owner's page", worst.ana, "ms");
    bench.figure("longest task of the other page", worst.ben, "ms");
    assert.ok(
      worst.ana < FROZEN_MS && worst.ben < FROZEN_MS,
      `pages stood still for ${JSON.stringify(worst)} ms`,
    );

    await ben.button("Download Archive as zip").click();
    await ben
      .row("Archive")
      .getByText(/^Saved/)
      .waitFor({ timeout: 180_000 });
    const link = hub.outside(await ben.copyLink("Archive"));
    const length = (await head(link)).headers.get("content-length");
    const saved = await ben.browser.downloaded("Archive.zip", Number(length));
    await checkArchive(saved, COUNT);
    await fetchAll(bench, link, carl, folder);
    assert.deepEqual([...ana.problems, ...ben.problems], []);
  },
  { patience: 400_000 },
);

story(
  `${FILES} from lanyard share, fetched the same ways`,
  async (bench) => {
    const hub = await Hub.start(bench);
    const folder = makeFolder(bench.dir("ana"), "Archive", COUNT, 4 * KIB);
    const [ana, carl] = await Promise.all([
      Native.join(bench, hub, "Ana"),
      Native.join(bench, hub, "Carl"),
    ]);
    const started = Date.now();
    const sharing = await ana.share(folder);
    bench.figure(`${FILES} listed from lanyard share`, Date.now() - started, "ms");
    assert.equal(sharing.events.find(({ event }) => event === "shared").files.length, COUNT);
    assert.equal((await carl.done(["ls"])).json.length, COUNT);
    await fetchAll(bench, await carl.link("Archive"), carl, folder);
  },
  { patience: 400_000 },
);

story(
  "a selection over two owners is one zip, equal names under their owners' names",
  async (bench) => {
    const hub = await Hub.start(bench);
    const [ana, ben] = await Promise.all([
      DevicePage.enter(bench, hub, "Ana"),
      DevicePage.enter(bench, hub, "Ben"),
    ]);
    const carl = await DevicePage.enter(bench, hub, "Carl");
    const dirs = { Ana: bench.dir("ana"), Ben: bench.dir("ben") };
    const big = await makeFile(dirs.Ana, "big.bin", 12 * MIB);
    const notes = await Promise.all([
      makeFile(dirs.Ana, "notes.txt", 900),
      makeFile(dirs.Ben, "of ben.txt", 800),
    ]);
    const bens = path.join(dirs.Ben, "notes.txt");
    renameSync(notes[1], bens);
    await Promise.all([ana.shareFiles(big, notes[0]), ben.shareFiles(bens)]);
    await hub.listed("three files", (files) => files.length === 3);
    await carl.sees("big.bin");
    for (const box of await carl.page.getByRole("checkbox", { name: /^Select / }).all())
      await box.check({ force: true });
    const selection = carl.page.getByRole("group", { name: "Selection" });
    await selection.getByRole("button", { name: "Download 3" }).click();
    await carl.button("Activity").click();
    await carl.page
      .getByRole("dialog")
      .getByText(/^Saved/)
      .waitFor();
    const saved = await carl.browser.downloaded("3 files.zip");
    await checkArchive(saved, 3);
    const out = await unpack(saved, bench.dir("unzip"));
    assert.deepEqual(tree(out), ["Ana/notes.txt", "Ben/notes.txt", "big.bin"]);
    assert.equal(await sha256(path.join(out, "big.bin")), await sha256(big));
    assert.equal(await sha256(path.join(out, "Ben/notes.txt")), await sha256(bens));
  },
);
