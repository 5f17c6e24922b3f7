/** Operates the pages like a person: finds everything by role and name. */
import assert from "node:assert/strict";
import path from "node:path";
import { sizeOf } from "./files.mjs";
import { Browser } from "./browser.mjs";
import { HUB_NAME } from "./hub.mjs";
import { until } from "./wait.mjs";

export class DevicePage {
  /** `url` differs from the hub's address when a simulated line lies in between. */
  constructor(browser, page, hub, name, url = hub.url) {
    Object.assign(this, { browser, page, hub, name, url });
    this.problems = [];
    page.on("pageerror", (error) => this.problems.push(error.message));
  }

  /** Opens a browser of its own and lets the device in. */
  static async enter(bench, hub, name, { url, ...options } = {}) {
    const browser = await Browser.open(bench, name, options);
    const device = new DevicePage(browser, await browser.tab(), hub, name, url);
    await device.open();
    await device.knock();
    device.publicId = await hub.approve(name);
    await device.isIn();
    return device;
  }

  /** Opens another tab of the same device. */
  async anotherTab() {
    const device = new DevicePage(
      this.browser,
      await this.browser.tab(),
      this.hub,
      this.name,
      this.url,
    );
    await device.open();
    await device.isIn();
    return device;
  }

  /**
   * Duplicates the tab as a browser does: the new one begins with a copy of this one's session
   * storage.
   */
  async duplicate() {
    const [page] = await Promise.all([
      this.page.context().waitForEvent("page"),
      this.page.evaluate(() => void window.open(location.href)),
    ]);
    const device = new DevicePage(this.browser, page, this.hub, this.name, this.url);
    await device.isIn();
    return device;
  }

  open() {
    return this.page.goto(this.url);
  }

  heading(name) {
    return this.page.getByRole("heading", { name });
  }

  button(name, options = { exact: true }) {
    return this.page.getByRole("button", { name, ...options });
  }

  async knock(name = this.name) {
    await this.heading(`You’re at the door of ${HUB_NAME}`).waitFor();
    await this.page.getByRole("textbox", { name: "This device" }).fill(name);
    await this.button("Knock").click();
  }

  /** Returns the six digits on the screen. */
  async code() {
    await this.heading(`Read these digits to the person at ${HUB_NAME}`).waitFor();
    const picture = this.page.getByTestId("code");
    const said = (await picture.getAttribute("aria-label")).replaceAll(" ", "");
    const shown = (await picture.textContent()).replace(/\s/g, "");
    assert.match(said, /^\d{6}$/);
    assert.equal(shown, said, "what is read aloud is what is shown");
    return said;
  }

  async isIn() {
    await this.page
      .getByRole("button", { name: /^(Share files|Share)$/ })
      .first()
      .waitFor();
  }

  shareFiles(...files) {
    return this.page.locator("#pick-files").setInputFiles(files);
  }

  shareFolder(folder) {
    return this.page.locator("#pick-folder").setInputFiles(folder);
  }

  /** Shares files through the button and the browser's own dialog. */
  async pickFiles(button, files) {
    const [chooser] = await Promise.all([this.page.waitForEvent("filechooser"), button.click()]);
    await chooser.setFiles(files);
  }

  row(name) {
    return this.page.getByRole("row", { name, exact: true });
  }

  async sees(name) {
    await this.row(name).waitFor();
  }

  async seesNot(name) {
    await this.row(name).waitFor({ state: "detached" });
  }

  async rows() {
    return this.page
      .getByRole("grid", { name: "Shared files" })
      .getByRole("row")
      .evaluateAll((rows) => rows.map((row) => row.getAttribute("aria-label")));
  }

  arriving(name) {
    return this.page.getByRole("progressbar", { name: `Downloading: ${name}` });
  }

  leaving(name) {
    return this.page.getByRole("progressbar", { name: `Sending: ${name}` });
  }

  startDownload(name) {
    return this.button(`Download ${name}`).click();
  }

  /** Clicks, and returns the file that the browser saved. */
  async download(name, size, patience) {
    await this.startDownload(name);
    return this.browser.downloaded(name, size, patience);
  }

  /** Returns how much of a file the browser has, finished or not. */
  have(name) {
    const file = path.join(this.browser.downloads, name);
    return Math.max(sizeOf(file), sizeOf(`${file}.crdownload`));
  }

  /** Waits until a download is running and not yet complete. */
  async halfway(name, bytes) {
    await until(`${bytes} bytes of ${name} are here`, () => this.have(name) >= bytes);
  }

  async menu(name, item) {
    await this.button(`More for ${name}`).click();
    await this.page.getByRole("menuitem", { name: item, exact: true }).click();
  }

  /** Copies the link of a row, and reads the link by pasting it. */
  async copyLink(name) {
    await this.menu(name, "Copy link");
    await this.page
      .getByRole("log", { name: "Messages" })
      .getByText("Link copied")
      .first()
      .waitFor();
    const find = this.page.getByRole("searchbox", { name: "Find a file" });
    await find.click();
    await this.page.keyboard.press("ControlOrMeta+V");
    const link = await find.inputValue();
    await find.fill("");
    assert.match(link, /^http:\/\/\S+\/d\/\S+$/);
    return link;
  }

  /** Waits for the checksum in the details of a file. */
  async root(name) {
    await this.menu(name, "Details");
    const root = this.page.getByTestId("root");
    await root.getByText(/^[0-9a-f]{64}$/).waitFor();
    const value = (await root.textContent()).trim();
    await this.page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    return value;
  }
}

/** The operator console in a browser. */
export class ConsolePage {
  constructor(page) {
    this.page = page;
    this.knocking = page.getByRole("region", { name: "Someone’s knocking" });
    this.digits = page.getByRole("textbox", { name: "Six-digit code" });
    this.letIn = page.getByRole("button", { name: "Let in", exact: true });
    this.alert = page.getByRole("alert");
  }

  static async open(browser, hub) {
    const operator = new ConsolePage(await browser.tab());
    await operator.page.goto(await hub.consoleUrl());
    await operator.page.getByRole("region", { name: "Here now" }).waitFor();
    return operator;
  }

  async facing(name) {
    await this.knocking.getByRole("heading", { name, exact: true }).waitFor();
  }

  async type(digits) {
    await this.digits.fill(digits);
    await this.letIn.click();
  }

  toast(text) {
    return this.page.getByRole("log", { name: "Messages" }).getByText(text).first();
  }
}

/**
 * Counts the bytes that the relay requests from a page, by the upload requests on the page's
 * control socket. Files never travel there, so listening is cheap. Must be called before the page
 * is loaded.
 */
export function countAsked(page) {
  const asked = { bytes: 0, requests: 0 };
  page.on("websocket", (socket) => {
    socket.on("framereceived", ({ payload }) => {
      if (typeof payload !== "string" || !payload.includes("UPLOAD_CHUNK_REQUEST")) return;
      const { opcode, data } = JSON.parse(payload);
      if (opcode !== "UPLOAD_CHUNK_REQUEST") return;
      asked.bytes += data.length;
      asked.requests += 1;
    });
  });
  return asked;
}

/**
 * Measures the page's longest task since the call, in milliseconds. Tasks below 50 ms do not
 * count.
 */
export async function watchTasks(page) {
  await page.evaluate(() => {
    const seen = (window.e2eTasks = { worst: 0, picked: 0 });
    const take = (tasks) => {
      for (const { startTime, duration } of tasks) {
        // With ten thousand picked files the browser takes a second or two before it tells the
        // page. This time is not the page's.
        const own =
          seen.picked > startTime && seen.picked < startTime + duration
            ? startTime + duration - seen.picked
            : duration;
        seen.worst = Math.max(seen.worst, own);
      }
    };
    const observer = new PerformanceObserver((list) => take(list.getEntries()));
    observer.observe({ entryTypes: ["longtask"] });
    seen.rest = () => take(observer.takeRecords());
    document.addEventListener("change", () => (seen.picked = performance.now()), true);
  });
  return () =>
    page.evaluate(() => {
      window.e2eTasks.rest();
      return window.e2eTasks.worst;
    });
}
