/**
 * One Chromium with one page, driven by JSON lines: a command on stdin, {ok} or {err} on stdout.
 *
 *   node driver.mjs CHROMIUM PROFILE
 *
 * Playwright and the ways through Lanyard's own page are those of the end-to-end tests.
 */
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { DevicePage } from "../../e2e/lib/pages.mjs";

const [, , executablePath, profile] = process.argv;
const { chromium } = createRequire(new URL("../../e2e/package.json", import.meta.url))("playwright-core");
const PATIENCE_MS = 60_000;
const FLAGS = [
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
  "--disable-gpu",
  "--no-proxy-server",
  "--ignore-certificate-errors",
  // WebRTC between two browsers of one machine.
  "--allow-loopback-in-peer-connection",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
  // No window has the focus here: none may be slowed for that.
  "--disable-background-timer-throttling",
  "--disable-renderer-backgrounding",
  "--disable-backgrounding-occluded-windows",
];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** What can be asked; `page` is the browser's only one. */
const commands = {
  init: (page, { js }) => page.addInitScript(js),
  goto: (page, { url }) => page.goto(url, { waitUntil: "load" }),
  eval: (page, { js, arg }) => page.evaluate(`(async () => { const f = (${js}); return f(${JSON.stringify(arg ?? null)}); })()`),
  files: (page, { selector, path }) => page.setInputFiles(selector, path),
  /** A page of its own for files where the product has none that serves. */
  input: (page) =>
    page.evaluate(() => {
      const input = Object.assign(document.createElement("input"), { type: "file", id: "bench-file" });
      document.body.append(input);
    }),
  /** Through the product's door as a person goes, on a hub that admits everyone. */
  async enter(page, { url, name }) {
    const device = new DevicePage(null, page, null, name, url);
    await device.open();
    await device.knock();
    await device.isIn();
  },
  /** The product's own way to share, until the list has it. */
  async share(page, { path, name }) {
    const device = new DevicePage(null, page, null, name, page.url());
    await device.shareFiles(path);
    await device.sees(name);
  },
};

async function open() {
  const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, chromiumSandbox: process.getuid?.() !== 0, args: FLAGS });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = context.pages()[0] ?? (await context.newPage());
  page.on("pageerror", (error) => process.stderr.write(`page: ${error}\n`));
  return { context, page };
}

try {
  const { context, page } = await open();
  say({ ok: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const { cmd, ...rest } = JSON.parse(line);
    try {
      const value = await commands[cmd](page, rest);
      say({ ok: cmd === "eval" ? (value ?? null) : true });
    } catch (error) {
      say({ err: String(error?.stack ?? error) });
    }
  }
  await context.close();
} catch (error) {
  say({ err: String(error?.stack ?? error) });
}
process.exit(0);
