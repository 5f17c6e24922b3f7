/**
 * Pages of other sites in the host's and the guests' browsers, a name that resolves to the hub,
 * and names that are markup.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { story } from "../lib/bench.mjs";
import { Browser, EVIL } from "../lib/browser.mjs";
import { Hub } from "../lib/hub.mjs";
import { ConsolePage, DevicePage } from "../lib/pages.mjs";

/** Serves a page of another site, on a port of its own. */
async function evilSite(bench) {
  const server = createServer((_, response) =>
    response
      .writeHead(200, { "Content-Type": "text/html" })
      .end("<!doctype html><title>evil</title>"),
  );
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  bench.onClose(() => server.close());
  return `http://${EVIL}:${server.address().port}/`;
}

/**
 * Tries everything that a script of this page can against the hub at `target`. Returns what was
 * read and what opened.
 */
function attack(page, target) {
  return page.evaluate(async (target) => {
    const got = [];
    const tries = [
      ["GET", "/", {}],
      ["GET", "/healthz", {}],
      ["GET", "/metrics", {}],
      ["POST", `/d/${"0".repeat(32)}`, { body: "{}", headers: { "Content-Type": "text/plain" } }],
      ["PUT", `/chunks/${"0".repeat(32)}`, { body: "x" }],
      ["DELETE", `/d/${"0".repeat(32)}`, {}],
    ];
    for (const [method, path, more] of tries) {
      const read = await fetch(target + path, { method, ...more, credentials: "include" }).then(
        (response) => response.text(),
        () => null,
      );
      if (read !== null) got.push(`${method} ${path}: ${read.slice(0, 60)}`);
      await fetch(target + path, { method, ...more, mode: "no-cors" }).catch(() => undefined);
    }
    const socket = (path, protocols) =>
      new Promise((resolve) => {
        const ws = new WebSocket(target.replace("http", "ws") + path, protocols);
        ws.onopen = () => resolve(true);
        ws.onerror = () => resolve(false);
      });
    for (const path of ["/ws/device", "/ws/master", "/ws/console"])
      if (await socket(path, ["lanyard.v2"])) got.push(`socket ${path}`);
    const framed = await new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.src = target;
      frame.onload = () => {
        try {
          resolve(frame.contentDocument?.body?.textContent ?? "");
        } catch {
          resolve("");
        }
      };
      document.body.append(frame);
    });
    if (framed !== "") got.push(`frame: ${framed.slice(0, 60)}`);
    return got;
  }, target);
}

story(
  "a page of another site obtains nothing from the hub and its console, and changes nothing",
  async (bench) => {
    const hub = await Hub.start(bench);
    const host = await Browser.open(bench, "host");
    const operator = await ConsolePage.open(host, hub);
    const ana = await DevicePage.enter(bench, hub, "Ana");
    const note = path.join(bench.dir("ana"), "diary.txt");
    writeFileSync(note, "private");
    await ana.shareFiles(note);
    await ana.sees("diary.txt");
    const before = JSON.stringify([await hub.devices(), await hub.files()]);

    const evil = await evilSite(bench);
    const console_ = new URL(await hub.consoleUrl()).origin;
    for (const [browser, targets] of [
      [host, [hub.url, hub.local, console_]],
      [ana.browser, [hub.url, hub.local]],
    ]) {
      const page = await browser.tab();
      await page.goto(evil);
      for (const target of targets) assert.deepEqual(await attack(page, target), [], target);
    }
    // The name now resolves to the hub: the page's own origin, as far as the browser can tell.
    const rebound = await ana.browser.tab();
    const answer = await rebound.goto(`http://${EVIL}:${hub.port}/`);
    assert.equal(answer.status(), 421);
    assert.doesNotMatch(await rebound.content(), /diary|Ana/);
    assert.deepEqual(
      (await attack(rebound, `http://${EVIL}:${hub.port}`)).filter(
        (said) => !/HOST_DENIED|does not answer to that name/.test(said),
      ),
      [],
    );

    assert.equal(
      JSON.stringify([await hub.devices(), await hub.files()]),
      before,
      "nothing changed",
    );
    assert.deepEqual(ana.problems, []);
    await operator.page.getByRole("region", { name: "Here now" }).getByText("Ana").waitFor();
  },
);

const RUN = "globalThis.canary=1";
/**
 * Names that are markup, attributes, templates, addresses and handlers. None has a slash, because
 * a slash separates folders.
 */
const PAYLOADS = [
  `<img src=x onerror=${RUN}>`,
  `<svg onload=${RUN}>`,
  `"><img src=x onerror=${RUN}>`,
  `'><svg onload='${RUN}'>`,
  `<script>${RUN}<\u2215script>`,
  `<iframe srcdoc="<img src=x onerror=parent.canary=1>">`,
  `<details open ontoggle=${RUN}>`,
  `<input autofocus onfocus=${RUN}>`,
  `<video><source onerror=${RUN}>`,
  `<a href="javascript:${RUN}">x`,
  `javascript:${RUN}`,
  `data:text,<img src=x onerror=${RUN}>`,
  `{{constructor.constructor('${RUN}')()}}`,
  "${" + RUN + "}",
  `{@html '<img src=x onerror=${RUN}>'}`,
  `&lt;img src=x onerror=${RUN}&gt;`,
  `\u202E<img src=x onerror=${RUN}>gpj.exe`,
  `<style>*{background:url(javascript:${RUN})}`,
  `<math><mtext><img src=x onerror=${RUN}>`,
  `<base href="javascript:${RUN}">`,
];

story("names that contain markup are shown as text in every view", async (bench) => {
  const hub = await Hub.start(bench);
  const host = await Browser.open(bench, "host");
  const operator = await ConsolePage.open(host, hub);
  const fired = [];
  const watch = (page) => {
    page.on("dialog", (dialog) => {
      fired.push(dialog.message());
      return dialog.dismiss();
    });
    page.on(
      "console",
      (message) =>
        /Content Security Policy|TrustedHTML|TrustedScript/.test(message.text()) &&
        fired.push(message.text()),
    );
  };
  watch(operator.page);
  const mallory = await DevicePage.enter(bench, hub, PAYLOADS[0]);
  watch(mallory.page);
  const dir = bench.dir("names");
  const files = PAYLOADS.map((name, n) => path.join(dir, `${n} ${name}.txt`));
  for (const file of files) writeFileSync(file, file);
  await mallory.shareFiles(...files);
  // A window for all rows, since the list draws only visible ones.
  const ana = await DevicePage.enter(bench, hub, "Ana", {
    viewport: { width: 1280, height: 2400 },
  });
  watch(ana.page);
  const shown = PAYLOADS.map((name, n) => `${n} ${name}.txt`);
  for (const name of shown) await ana.sees(name);
  assert.equal((await ana.rows()).length, PAYLOADS.length);
  // In a download, in the console's list, in a join request and in the record.
  await ana.startDownload(shown[2]);
  await operator.page.getByText(shown[3]).first().waitFor();
  const browser = await Browser.open(bench, "knocker");
  const knocker = new DevicePage(browser, await browser.tab(), hub, PAYLOADS[1]);
  watch(knocker.page);
  await knocker.open();
  await knocker.knock();
  await knocker.code();
  await operator.facing(PAYLOADS[1]);
  await operator.page.getByRole("button", { name: "History" }).click();
  await operator.page
    .getByRole("list", { name: "History" })
    .getByText(PAYLOADS[1])
    .first()
    .waitFor();

  for (const page of [operator.page, mallory.page, ana.page, knocker.page]) {
    assert.equal(await page.evaluate(() => globalThis.canary), undefined);
    assert.equal(await page.locator("img[src=x], svg[onload], iframe, base").count(), 0);
  }
  assert.deepEqual(fired, []);
  assert.deepEqual([...mallory.problems, ...ana.problems, ...knocker.problems], []);
});
