/** Https on the same port, invitations, a closed door, and the record of all that. */
import assert from "node:assert/strict";
import { inFull, story } from "../lib/bench.mjs";
import { Browser } from "../lib/browser.mjs";
import { MIB, makeFile, sha256 } from "../lib/files.mjs";
import { Hub, HUB_NAME } from "../lib/hub.mjs";
import { ConsolePage, DevicePage } from "../lib/pages.mjs";
import { until } from "../lib/wait.mjs";

const ENCRYPTED = { trusting: true };

/** Reads the page's database as a script of that page can. */
function keptKey(page) {
  return page.evaluate(async () => {
    const database = await new Promise((resolve, reject) => {
      const opening = indexedDB.open("lanyard", 1);
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
    const found = await new Promise((resolve) => {
      const get = database.transaction("identity").objectStore("identity").get("seed");
      get.onsuccess = () => resolve(get.result);
    });
    database.close();
    if (found instanceof Uint8Array) return "bytes";
    const taken = await crypto.subtle.exportKey("pkcs8", found.privateKey).then(
      () => true,
      () => false,
    );
    return taken ? "a key that scripts can take" : "a key that no script can take";
  });
}

story("a device on https works like any other, and its browser keeps the key", async (bench) => {
  const hub = await Hub.start(bench);
  const url = hub.url.replace("http://", "https://");
  const ana = await DevicePage.enter(bench, hub, "Ana", { ...ENCRYPTED, url });
  const ben = await DevicePage.enter(bench, hub, "Ben");
  assert.equal(await ana.page.evaluate(() => isSecureContext), true);
  assert.equal(await keptKey(ana.page), "a key that no script can take");
  assert.equal(await keptKey(ben.page), "bytes", "plain http has no other way");

  const size = inFull(20, 4) * MIB;
  const [there, back] = await Promise.all([
    makeFile(bench.dir("ana"), "there.bin", size),
    makeFile(bench.dir("ben"), "back.bin", size),
  ]);
  await ana.shareFiles(there);
  await ben.shareFiles(back);
  await Promise.all([ana.sees("back.bin"), ben.sees("there.bin")]);
  const [got, gave] = await Promise.all([
    ana.download("back.bin", size),
    ben.download("there.bin", size),
  ]);
  assert.deepEqual(
    [await sha256(got), await sha256(gave)],
    [await sha256(back), await sha256(there)],
  );

  // The same device after a reload: the key signs again.
  await ana.page.reload();
  await ana.isIn();
  assert.deepEqual([...ana.problems, ...ben.problems], []);
});

story("an https-only hub shows plain http only the way to https", async (bench) => {
  const hub = await Hub.start(bench, { args: ["--require-tls"] });
  // Loopback is always served. What other machines get is tested with raw requests in
  // tests/attacks.
  const ana = await DevicePage.enter(bench, hub, "Ana", {
    ...ENCRYPTED,
    url: hub.url.replace("http://", "https://"),
  });
  assert.deepEqual(ana.problems, []);
  const redirect = await fetch(`${hub.local}/secure`, { redirect: "manual" });
  assert.deepEqual(
    [redirect.status, redirect.headers.get("location")],
    [307, `https://127.0.0.1:${hub.port}/`],
  );
  const certificate = await fetch(`${hub.local}/ca.crt`);
  assert.equal(certificate.headers.get("content-type"), "application/x-x509-ca-cert");
});

story("an invitation lets one device in, once, and leaves the address at once", async (bench) => {
  const hub = await Hub.start(bench);
  const { url } = (await hub.cli("invite", "--for", "8h")).json;
  const invited = url.replace(/^http:\/\/[^/]+/, hub.url);
  const enter = async (name) => {
    const browser = await Browser.open(bench, name);
    const device = new DevicePage(browser, await browser.tab(), hub, name, invited);
    await device.open();
    assert.doesNotMatch(device.page.url(), /i=/, "no history keeps it");
    await device.knock();
    return device;
  };
  const ana = await enter("Ana");
  await ana.isIn();
  assert.match(JSON.stringify(await hub.devices()), /"until_ms":\d+/);
  const late = await enter("Late");
  await late.code();
  await hub.pending("Late");
  assert.deepEqual([...ana.problems, ...late.problems], []);
});

story("an invitation survives the change to an encrypted connection", async (bench) => {
  const hub = await Hub.start(bench);
  const { url } = (await hub.cli("invite")).json;
  const invited = url.replace(/^http:\/\/[^/]+/, hub.url);
  const browser = await Browser.open(bench, "Ana", ENCRYPTED);
  const ana = new DevicePage(browser, await browser.tab(), hub, "Ana", invited);
  await ana.open();
  await ana.page.getByRole("link", { name: "Use an encrypted connection" }).click();
  await ana.page.waitForURL(/^https:/);
  assert.doesNotMatch(ana.page.url(), /i=/, "no history keeps it");
  await ana.knock();
  await ana.isIn();
  assert.deepEqual(ana.problems, []);
});

story(
  "a closed door says so, an opened one asks, and the host can read what was decided",
  async (bench) => {
    const hub = await Hub.start(bench);
    const operator = await ConsolePage.open(await Browser.open(bench, "host"), hub);
    const door = operator.page.getByRole("combobox", { name: "When somebody knocks" });
    await door.selectOption("Let nobody new in");
    const browser = await Browser.open(bench, "Ana");
    const ana = new DevicePage(browser, await browser.tab(), hub, "Ana");
    await ana.open();
    await ana.knock();
    await ana.heading(`${HUB_NAME} isn’t letting anyone new in`).waitFor();

    await door.selectOption("Ask me about each device");
    const code = await ana.code();
    await operator.facing("Ana");
    await operator.page
      .getByRole("combobox", { name: "How long they may stay" })
      .selectOption("For an hour");
    await operator.type(code);
    await ana.isIn();
    assert.match(JSON.stringify(await hub.devices()), /"until_ms":\d+/);

    await operator.page.getByRole("button", { name: "Invite one device" }).click();
    await operator.page.getByRole("heading", { name: "An invitation" }).waitFor();
    await operator.page.getByRole("button", { name: "Done" }).click();
    await door.selectOption("Let everybody in");
    await operator.page.getByText("Anyone on this network can come in without a code.").waitFor();
    await operator.page.getByRole("button", { name: "Ask me again" }).click();
    await until("the door asks again", async () => (await door.inputValue()) === "ask");

    await operator.page.getByRole("button", { name: "History" }).click();
    const record = operator.page.getByRole("list", { name: "History" });
    await record
      .getByText(/was let in \(by you\)/)
      .first()
      .waitFor();
    await record.getByText("The door was closed to new devices").waitFor();
    await record.getByText("An invitation was made").waitFor();
    const printed = await hub.cli("audit");
    assert.equal(printed.code, 0);
    assert.ok(printed.lines.some(({ event, name }) => event === "approved" && name === "Ana"));
    assert.deepEqual(ana.problems, []);
  },
);
