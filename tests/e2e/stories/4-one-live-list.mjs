/** Story 4: approved devices see one live list, add to it, take from it, and rename themselves. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { inFull, story } from "../lib/bench.mjs";
import { PHONE } from "../lib/browser.mjs";
import { MIB, makeFile } from "../lib/files.mjs";
import { Hub } from "../lib/hub.mjs";
import { DevicePage } from "../lib/pages.mjs";
import { startCurl } from "../lib/tools.mjs";

function trip(dir) {
  const root = path.join(dir, "Trip");
  mkdirSync(path.join(root, "day 1"), { recursive: true });
  for (const name of ["map.pdf", "day 1/a.jpg", "day 1/b.jpg"])
    writeFileSync(path.join(root, name), name);
  return root;
}

story("additions, renames and removals appear on other devices at once", async (bench) => {
  const hub = await Hub.start(bench);
  const [ana, ben] = await Promise.all(
    ["Ana", "Ben"].map((name) => DevicePage.enter(bench, hub, name)),
  );
  const dir = bench.dir("ana");
  const [notes, song] = await Promise.all([
    makeFile(dir, "notes.txt", 5_000),
    makeFile(dir, "song.mp3", 70_000),
  ]);
  await ben.page.getByText("Nothing shared yet").first().waitFor();

  await ana.pickFiles(ana.button("Share files"), [notes, song]);
  for (const page of [ana, ben])
    for (const name of ["notes.txt", "song.mp3"]) await page.sees(name);
  await ana.button("More ways to share").click();
  await ana.pickFiles(ana.page.getByRole("menuitem", { name: "Folder" }), trip(dir));
  await ben.sees("Trip");
  await ben.button("Trip").click();
  await ben.sees("map.pdf");
  await ben.button("day 1").click();
  await ben.sees("b.jpg");
  assert.deepEqual((await ben.rows()).sort(), ["a.jpg", "b.jpg"]);
  await ben.button("Trip").click();
  await ben.button("Everything").click();

  const devices = ben.page.getByRole("complementary", { name: "Devices" });
  await devices
    .getByRole("button", { name: /^Everything/ })
    .getByText("5 files")
    .waitFor();
  await devices.getByRole("button", { name: /^Ana/ }).click();
  assert.deepEqual((await ben.rows()).sort(), ["Trip", "notes.txt", "song.mp3"]);
  await devices.getByRole("button", { name: /^Everything/ }).click();

  await ana.button("Rename this device").click();
  await ana.page.getByRole("textbox", { name: "Name of this device" }).fill("Ana’s studio");
  await ana.button("Save").click();
  await devices.getByRole("button", { name: /^Ana’s studio/ }).waitFor();
  assert.ok((await hub.files()).every(({ owner_name }) => owner_name === "Ana’s studio"));

  await ana.button("Stop sharing song.mp3").click();
  await ben.row("song.mp3").getByText("Removed by Ana’s studio").waitFor();
  await ben.seesNot("song.mp3");
  await ana.seesNot("song.mp3");
  await ana.button("Stop sharing Trip").click();
  await ben.seesNot("Trip");
  const removed = await hub.event("file_removed");
  assert.equal(removed.public_id, ana.publicId);
  assert.deepEqual(
    (await hub.files()).map((file) => file.path),
    ["notes.txt"],
  );
  assert.deepEqual([...ana.problems, ...ben.problems], []);
});

story("a file arrives on the list by paste and by drop", async (bench) => {
  const hub = await Hub.start(bench);
  const ana = await DevicePage.enter(bench, hub, "Ana");
  // A headless browser cannot drag files or hold them on its clipboard, so the test creates the
  // events.
  await ana.page.evaluate(() => {
    const carry = (...files) =>
      files.reduce((transfer, file) => (transfer.items.add(file), transfer), new DataTransfer());
    const picture = new File(["pixels"], "image.png", { type: "image/png" });
    document.body.dispatchEvent(
      new ClipboardEvent("paste", {
        clipboardData: carry(picture),
        bubbles: true,
        cancelable: true,
      }),
    );
    const dataTransfer = carry(new File(["dropped"], "dropped.txt", { type: "text/plain" }));
    for (const type of ["dragenter", "dragover", "drop"])
      document.body.dispatchEvent(
        new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }),
      );
  });
  await ana.sees("dropped.txt");
  await ana.page.getByRole("row", { name: /^Screenshot \d+\.\d\d\.png$/ }).waitFor();
  await hub.listed("both at the hub", (files) => files.length === 2);
});

story("search, filter and order apply to one page only", async (bench) => {
  const hub = await Hub.start(bench);
  const ana = await DevicePage.enter(bench, hub, "Ana");
  const dir = bench.dir("ana");
  const files = await Promise.all(
    [
      ["beach.jpg", 3_000],
      ["alps.png", 9_000],
      ["film.mp4", 5_000],
      ["tax 2025.pdf", 1_000],
    ].map(([name, size]) => makeFile(dir, name, size)),
  );
  await ana.shareFiles(...files);
  await ana.sees("film.mp4");
  await ana.page.getByRole("combobox", { name: "Order" }).selectOption("By name");
  assert.deepEqual(await ana.rows(), ["alps.png", "beach.jpg", "film.mp4", "tax 2025.pdf"]);
  await ana.page.getByRole("combobox", { name: "Order" }).selectOption("Largest first");
  assert.deepEqual(await ana.rows(), ["alps.png", "film.mp4", "beach.jpg", "tax 2025.pdf"]);
  await ana.page
    .getByRole("group", { name: "Show" })
    .getByRole("button", { name: /^Photos/ })
    .click();
  assert.deepEqual(await ana.rows(), ["alps.png", "beach.jpg"]);
  await ana.page.getByRole("group", { name: "Show" }).getByRole("button", { name: "All" }).click();
  await ana.page.getByRole("searchbox", { name: "Find a file" }).fill("2025");
  await ana.seesNot("film.mp4");
  assert.deepEqual(await ana.rows(), ["tax 2025.pdf"]);
});

story(
  "a phone has the same list, and stopping is asked twice while somebody takes the file",
  async (bench) => {
    const hub = await Hub.start(bench);
    const phone = await DevicePage.enter(bench, hub, "Ana’s phone", {
      viewport: PHONE,
      mobile: true,
    });
    const film = await makeFile(bench.dir("phone"), "film.mov", inFull(24, 12) * MIB);
    await phone.pickFiles(phone.button("Share"), [film]);
    const link = hub.outside(
      await (async () => {
        const ben = await DevicePage.enter(bench, hub, "Ben");
        await ben.sees("film.mov");
        return ben.copyLink("film.mov");
      })(),
    );
    const curl = startCurl(
      bench,
      "curl",
      link,
      path.join(bench.dir("curl"), "film.mov"),
      "--limit-rate",
      "1M",
    );
    await phone.leaving("film.mov").waitFor();
    await phone.button("Stop sharing film.mov").click();
    const asked = phone.page.getByRole("dialog", { name: "Stop sharing film.mov?" });
    await asked.getByText(/has \d+ % and would have to start over/).waitFor();
    await asked.getByRole("button", { name: "Keep sharing" }).click();
    assert.equal(curl.exit, null, "nothing was lost by asking");
    await phone.button("Stop sharing film.mov").click();
    await asked.getByRole("button", { name: "Stop sharing" }).click();
    await phone.seesNot("film.mov");
    const { code } = await curl.ended;
    assert.notEqual(code, 0, "a body that ends early never looks complete");
  },
);
