/** Real Chromium, one process and one profile each, as a person's device would run it. */
import { existsSync } from "node:fs";
import path from "node:path";
import { chromium } from "playwright-core";
import { sizeOf } from "./files.mjs";
import { HOST } from "./hub.mjs";
import { browserPid, canMeasure } from "./measure.mjs";
import { PATIENCE_MS, until } from "./wait.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/** The site of somebody else; its name can be made to mean anything, the hub as well. */
export const EVIL = "evil.test";
export const DESKTOP = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };

export function executable() {
  const wished = process.env.LANYARD_BROWSER;
  if (wished === "playwright") return chromium.executablePath();
  if (wished) return wished;
  const dirs = (process.env.PATH ?? "").split(path.delimiter);
  const found = NAMES.flatMap((name) => dirs.map((dir) => path.join(dir, name))).find(existsSync);
  if (!found) throw new Error("no Chromium in PATH: install it, or name one in LANYARD_BROWSER");
  return found;
}

function flags() {
  return [
    "--headless=new",
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    `--host-resolver-rules=MAP ${HOST} 127.0.0.1,MAP ${EVIL} 127.0.0.1`,
  ];
}

export class Browser {
  static async open(
    bench,
    name,
    {
      profile = bench.dir(`profile-${name}`),
      viewport = DESKTOP,
      mobile = false,
      userAgent,
      trusting = false,
    } = {},
  ) {
    const browser = new Browser();
    Object.assign(browser, {
      bench,
      name,
      profile,
      downloads: bench.dir(`downloads-${name}`),
      shape: { viewport, mobile, userAgent, trusting },
    });
    await browser.start();
    return browser;
  }

  async start() {
    const { viewport, mobile, userAgent, trusting } = this.shape;
    this.context = await chromium.launchPersistentContext(this.profile, {
      executablePath: executable(),
      headless: true,
      chromiumSandbox: process.getuid?.() !== 0,
      args: flags(),
      viewport,
      ...(userAgent ? { userAgent } : {}),
      // As a person does who clicks the warning away.
      ...(trusting ? { ignoreHTTPSErrors: true } : {}),
      ...(mobile ? { isMobile: true, hasTouch: true, deviceScaleFactor: 2 } : {}),
      handleSIGINT: false,
    });
    this.context.setDefaultTimeout(PATIENCE_MS);
    this.bench.onClose(() => this.close());
    this.pid = canMeasure ? browserPid(this.profile) : null;
    // Downloads go where a person would find them, under their own names, by the browser's own machinery.
    const [page] = this.context.pages();
    const session = await this.context.newCDPSession(page);
    await session.send("Browser.setDownloadBehavior", {
      behavior: "allow",
      downloadPath: this.downloads,
    });
    this.first = page;
  }

  /** A tab; the first call takes the one that a browser opens with. */
  async tab() {
    const page = this.first ?? (await this.context.newPage());
    this.first = null;
    this.bench.pages.set(`${this.name}-${this.context.pages().length}`, page);
    return page;
  }

  /** A file of the downloads directory, once it is there whole. */
  async downloaded(name, size, patience = 180_000) {
    const file = path.join(this.downloads, name);
    // Until it renames the whole, Chromium keeps an empty file of the final name beside the growing one.
    const isWhole = () => sizeOf(file) > 0 && (size === undefined || sizeOf(file) === size);
    await until(
      `${name} is downloaded whole`,
      () => isWhole() && !existsSync(`${file}.crdownload`),
      patience,
    );
    return file;
  }

  async close() {
    await this.context.close().catch(() => undefined);
  }

  /** Closed and opened again, with the same profile. */
  async restart() {
    await this.close();
    await this.start();
  }
}
