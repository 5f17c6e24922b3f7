/** Runs real Chromium, with one process and one profile per device. */
import { existsSync } from "node:fs";
import path from "node:path";
import { chromium } from "playwright-core";
import { sizeOf } from "./files.mjs";
import { HOST } from "./hub.mjs";
import { browserPid, canMeasure } from "./measure.mjs";
import { PATIENCE_MS, until } from "./wait.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/** The name of a foreign site, which can be made to resolve to any address, the hub's included. */
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
      // Like a person who dismisses the browser's warning.
      ...(trusting ? { ignoreHTTPSErrors: true } : {}),
      ...(mobile ? { isMobile: true, hasTouch: true, deviceScaleFactor: 2 } : {}),
      handleSIGINT: false,
    });
    this.context.setDefaultTimeout(PATIENCE_MS);
    this.bench.onClose(() => this.close());
    this.pid = canMeasure ? browserPid(this.profile) : null;
    // The browser itself saves downloads, under their own names, into the profile's directory.
    const [page] = this.context.pages();
    const session = await this.context.newCDPSession(page);
    await session.send("Browser.setDownloadBehavior", {
      behavior: "allow",
      downloadPath: this.downloads,
    });
    this.first = page;
  }

  /** Opens a tab. The first call takes the tab with which the browser started. */
  async tab() {
    const page = this.first ?? (await this.context.newPage());
    this.first = null;
    this.bench.pages.set(`${this.name}-${this.context.pages().length}`, page);
    return page;
  }

  /** Waits until a file of the downloads directory is complete. */
  async downloaded(name, size, patience = 180_000) {
    const file = path.join(this.downloads, name);
    // While a download grows, Chromium keeps an empty file under the final name.
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

  /** Closes the browser and opens it again with the same profile. */
  async restart() {
    await this.close();
    await this.start();
  }
}
