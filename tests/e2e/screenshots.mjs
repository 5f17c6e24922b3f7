/**
 * Pictures of every page of the real product: phone and desktop, light and dark.
 *
 *   node screenshots.mjs DIR
 *
 * Writes DIR/{page}-{phone|desktop}-{light|dark}.png.
 */
import { cpSync, mkdirSync, utimesSync } from "node:fs";
import path from "node:path";
import { onBench } from "./lib/bench.mjs";
import { Browser, DESKTOP, PHONE } from "./lib/browser.mjs";
import { MIB, makeFile, tree } from "./lib/files.mjs";
import { Halves, Native, lanyard } from "./lib/hub.mjs";
import { Line } from "./lib/line.mjs";
import { ConsolePage, DevicePage } from "./lib/pages.mjs";
import { must } from "./lib/processes.mjs";
import { curl, startCurl } from "./lib/tools.mjs";
import { until } from "./lib/wait.mjs";

const SHAPES = [
  ["phone", PHONE],
  ["desktop", DESKTOP],
];
const IPHONE =
  "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
const THEMES = ["light", "dark"];

const target = process.argv[2];
if (!target) {
  console.error("node screenshots.mjs DIR");
  process.exit(2);
}
mkdirSync(target, { recursive: true });

/** Takes the page in both shapes and both themes. */
async function shoot(page, name, shapes = SHAPES) {
  for (const [shape, viewport] of shapes) {
    await page.setViewportSize(viewport);
    for (const colorScheme of THEMES) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.mouse.move(0, 0);
      await page.evaluate(() => document.fonts.ready);
      // Two frames: the one that draws the change, and the one that shows it.
      await page.evaluate(
        () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
      );
      await page.screenshot({
        path: path.join(target, `${name}-${shape}-${colorScheme}.png`),
        animations: "disabled",
      });
    }
  }
}

/** Waits until no notice lies over the page, dismissed or gone by itself. */
async function calm(page) {
  const dismiss = page.getByRole("button", { name: "Dismiss" });
  await until("the messages are gone", async () => {
    if ((await dismiss.count()) === 0) return true;
    await dismiss.first().click({ timeout: 1_000 });
    return false;
  });
}

/** Creates real pictures, music and a film, with everyday names. */
async function makeThings(dir) {
  mkdirSync(path.join(dir, "Lofoten"), { recursive: true });
  const draw = (picture, file, ...more) =>
    must("ffmpeg", [
      "-v",
      "error",
      "-y",
      "-f",
      "lavfi",
      "-i",
      picture,
      ...more,
      path.join(dir, file),
    ]);
  const still = ["-frames:v", "1", "-q:v", "2"];
  const scenes = {
    "Reine harbour": "0x24506b",
    "Midnight sun": "0xd98a3d",
    "Cabin in the snow": "0x9fb4c4",
    "Kayak at Nusfjord": "0x2f6d5b",
  };
  await Promise.all([
    ...Object.entries(scenes).map(([name, colour]) =>
      draw(
        `gradients=s=1600x1067:c0=${colour}:c1=0x101820:x0=0:y0=0:x1=1600:y1=1067:d=1,noise=alls=22:allf=t`,
        `Lofoten/${name}.jpg`,
        ...still,
      ),
    ),
    draw(
      "gradients=s=1200x800:c0=0xf2c27c:c1=0x6b3f2a:d=1,noise=alls=22:allf=t",
      "Kitchen wall.jpg",
      ...still,
    ),
    draw("sine=frequency=220:duration=30", "Evening mix.mp3", "-q:a", "2"),
    makeFile(dir, "Lofoten 4K.mov", 140 * MIB),
    makeFile(dir, "Tax 2025.pdf", 2_400_000),
    makeFile(dir, "Handbook of small boats.epub", 5_100_000),
    makeFile(dir, "backup 2024-05.tar.zst", 180 * MIB),
  ]);
  for (const n of [1, 2, 3])
    cpSync(
      path.join(dir, "Lofoten", "Reine harbour.jpg"),
      path.join(dir, "Lofoten", `Reine ${n}.jpg`),
    );
  const day = 24 * 3600e3;
  for (const [n, name] of tree(dir).entries())
    utimesSync(path.join(dir, name), new Date(), new Date(Date.now() - (n * n + 1) * day));
  return dir;
}

await onBench("screenshots", async (bench) => {
  const things = await makeThings(bench.dir("things"));
  const at = (name) => path.join(things, name);
  const hub = await Halves.start(bench, { paths: [at("Handbook of small boats.epub")] });
  const line = await Line.open(bench, hub);

  const ana = await DevicePage.enter(bench, hub, "Ana’s iPhone", { userAgent: IPHONE });
  const ben = await DevicePage.enter(bench, hub, "Ben’s laptop", { url: line.url });
  const carl = await Native.join(bench, hub, "Attic server");
  await ana.shareFiles(at("Lofoten 4K.mov"), at("Kitchen wall.jpg"));
  await ana.shareFolder(at("Lofoten"));
  await carl.share(at("backup 2024-05.tar.zst"), at("Evening mix.mp3"));
  await ben.shareFiles(at("Tax 2025.pdf"));
  await ben.sees("Lofoten");
  await ben.sees("backup 2024-05.tar.zst");

  // One download is finished, one is running, and one file is being sent.
  await ben.startDownload("Kitchen wall.jpg");
  await ben
    .row("Kitchen wall.jpg")
    .getByText(/^Saved/)
    .waitFor();
  line.rate = 6e6;
  const taken = startCurl(
    bench,
    "curl",
    hub.outside(await ana.copyLink("Lofoten 4K.mov")),
    path.join(bench.dir("curl"), "film"),
    "--limit-rate",
    "6M",
  );
  await ben.startDownload("Lofoten 4K.mov");
  await ben.arriving("Lofoten 4K.mov").waitFor();
  await ben.row("Lofoten 4K.mov").getByText(/left/).first().waitFor();
  await calm(ben.page);
  await shoot(ben.page, "shelf");
  await ana.leaving("Lofoten 4K.mov").waitFor();
  await calm(ana.page);
  await shoot(ana.page, "shelf-owner");
  line.rate = Infinity;
  await taken.kill9();

  await curl(
    hub.outside(await ben.copyLink("Kitchen wall.jpg")),
    path.join(bench.dir("curl"), "wall"),
  );
  await calm(ben.page);
  await ben.menu("Kitchen wall.jpg", "Details");
  await ben.page
    .getByTestId("root")
    .getByText(/^[0-9a-f]{64}$/)
    .waitFor();
  await shoot(ben.page, "details");
  await ben.page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await ben.page.setViewportSize(DESKTOP);
  await ben.button("Lofoten").click();
  await ben.sees("Midnight sun.jpg");
  await shoot(ben.page, "folder");

  const host = await Browser.open(bench, "host");
  const operator = await ConsolePage.open(host, hub);
  await operator.page.getByRole("heading", { name: "Nobody is at the door" }).waitFor();
  await shoot(operator.page, "console");

  const visitor = await Browser.open(bench, "visitor");
  const dora = new DevicePage(visitor, await visitor.tab(), hub, "Dora’s tablet");
  await dora.open();
  await dora.page.getByRole("textbox", { name: "This device" }).waitFor();
  await shoot(dora.page, "door");
  await dora.knock();
  const code = await dora.code();
  await shoot(dora.page, "waiting");
  await operator.facing("Dora’s tablet");
  await operator.digits.fill(code.slice(0, 4));
  await shoot(operator.page, "console-knock");
  const crowd = Array.from({ length: 5 }, (_, number) =>
    lanyard(bench.dir(`crowd-${number}`), ["join", hub.local, "--name", `Laptop ${number + 1}`]),
  );
  await operator.page.getByRole("button", { name: "Turn away 5 devices" }).waitFor();
  await shoot(operator.page, "console-crowd");
  await operator.page.getByRole("button", { name: "Turn away 5 devices" }).click();
  await Promise.all(crowd);
  await operator.knocking.getByRole("button", { name: "Turn away", exact: true }).click();
  await dora.heading("You don’t have access").waitFor();
  await shoot(dora.page, "turned-away");

  // Without the relay a loaded list stays readable, and a fresh page has nothing to show.
  await hub.relay.kill9();
  await ben.page
    .getByRole("status")
    .getByText(/stepped away/)
    .first()
    .waitFor();
  await shoot(ben.page, "reconnecting");
  await operator.page.getByText(/Lanyard can.t be reached from the network/).first().waitFor();
  await operator.page.getByRole("button", { name: "What to do" }).click();
  await shoot(operator.page, "console-problems");
  await operator.page.getByRole("button", { name: "Close" }).click();
  await hub.startRelay();
  await until(
    "everybody is back",
    async () =>
      (await hub.devices()).find(({ name }) => name === "Ana’s iPhone").presence === "online",
  );
  await hub.master.kill9();
  await ana.page.reload();
  await ana.heading(/stepped away/).waitFor();
  await shoot(ana.page, "host-away");
  console.log(`pictures in ${target}`);
});
