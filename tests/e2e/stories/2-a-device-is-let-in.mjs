/**
 * Stories 2 and 3: a device knocks and shows six digits; the host lets in or turns away; both are
 * remembered.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { story } from "../lib/bench.mjs";
import { Browser } from "../lib/browser.mjs";
import { Hub, HUB_NAME } from "../lib/hub.mjs";
import { ConsolePage, DevicePage } from "../lib/pages.mjs";

/** Returns six digits that differ from these. */
const wrong = (code) => String((Number(code) + 111_111) % 1_000_000).padStart(6, "0");

async function visitor(bench, hub, name) {
  const browser = await Browser.open(bench, name);
  const device = new DevicePage(browser, await browser.tab(), hub, name);
  await device.open();
  await device.knock();
  return device;
}

story("the host types the digits that the visitor reads out", async (bench) => {
  const secret = path.join(bench.dir("host"), "secret plans.txt");
  writeFileSync(secret, "plans");
  const hub = await Hub.start(bench, { paths: [secret] });
  const operator = await ConsolePage.open(await Browser.open(bench, "host"), hub);
  await operator.page.getByRole("heading", { name: "Nobody is at the door" }).waitFor();

  const ana = await visitor(bench, hub, "Ana’s laptop");
  const code = await ana.code();
  const pending = await hub.pending("Ana’s laptop");
  assert.equal(pending.code, code, "the terminal knows the same digits");
  assert.deepEqual([pending.kind, pending.presence], ["browser", "online"]);
  assert.equal((await hub.event("device_pending")).name, "Ana’s laptop");
  assert.doesNotMatch(
    await ana.page.content(),
    /secret plans/,
    "nothing of the hub shows at its door",
  );

  await operator.facing("Ana’s laptop");
  assert.doesNotMatch(
    await operator.page.content(),
    new RegExp(code),
    "the host is not told what to type",
  );
  await operator.digits.fill("12345");
  assert.ok(await operator.letIn.isDisabled(), "five digits are not enough");
  await operator.type(wrong(code));
  await operator.alert.getByText("That isn’t the code").waitFor();
  assert.equal(await ana.code(), code, "the visitor still waits");
  await operator.type(code);
  await operator.toast("Ana’s laptop is in").waitFor();
  await ana.isIn();
  await ana.sees("secret plans.txt");
  await hub.event(
    ({ event, public_id }) => event === "device_approved" && public_id === pending.public_id,
  );
  await operator.page.getByRole("heading", { name: "Nobody is at the door" }).waitFor();
  assert.deepEqual(ana.problems, []);
});

story("refusals and approvals last for a key over reloads and restarts", async (bench) => {
  const hub = await Hub.start(bench);
  const operator = await ConsolePage.open(await Browser.open(bench, "host"), hub);
  const ana = await DevicePage.enter(bench, hub, "Ana");
  const mallory = await visitor(bench, hub, "Mallory");
  await mallory.code();
  await operator.facing("Mallory");
  await operator.page
    .getByRole("region", { name: "Someone’s knocking" })
    .getByRole("button", { name: "Turn away", exact: true })
    .click();
  await mallory.heading("You don’t have access").waitFor();
  assert.equal(await mallory.page.getByRole("button").count(), 0, "there is nothing to press");
  await hub.event("device_refused");
  await mallory.page.reload();
  await mallory.heading("You don’t have access").waitFor();

  await hub.restart();
  await mallory.page.reload();
  await mallory.heading("You don’t have access").waitFor();
  await ana.isIn();
  await ana.page.reload();
  await ana.isIn();
  // The hub remembers as well: without the page's memory the same key is refused again.
  await mallory.page.evaluate(() => localStorage.clear());
  await mallory.page.reload();
  await mallory
    .heading("You don’t have access")
    .or(mallory.heading(`You’re at the door of ${HUB_NAME}`))
    .waitFor();
  if (await mallory.button("Knock").isVisible()) await mallory.button("Knock").click();
  await mallory.heading("You don’t have access").waitFor();
  const rows = await hub.devices();
  const memberships = Object.fromEntries(rows.map(({ name, membership }) => [name, membership]));
  assert.deepEqual([memberships.Ana, memberships.Mallory], ["approved", "disapproved"]);
  assert.ok(!rows.some(({ membership }) => membership === "pending"));

  // The whole browser comes back, not only the page.
  await ana.browser.restart();
  const again = new DevicePage(ana.browser, await ana.browser.tab(), hub, "Ana");
  await again.open();
  await again.isIn();
});

story("the terminal approves, refuses and forgets, with an exit code each", async (bench) => {
  const hub = await Hub.start(bench);
  const ana = await visitor(bench, hub, "Ana");
  const code = await ana.code();
  const { public_id } = await hub.pending("Ana");
  assert.equal((await hub.cli("approve", "nobody-of-that-name")).code, 5);
  assert.equal((await hub.cli("approve", public_id, "--code", "12")).code, 2);
  assert.equal((await hub.cli("approve", public_id, "--code", wrong(code))).code, 1);
  assert.equal((await hub.cli("approve", public_id, "--code", code)).code, 0);
  await ana.isIn();

  const ben = await visitor(bench, hub, "Ben");
  await ben.code();
  assert.equal((await hub.cli("refuse", "Ben")).code, 0);
  await ben.heading("You don’t have access").waitFor();
  assert.equal((await hub.cli("approve", "Ben")).code, 5, "a refusal is not undone by approving");
  assert.equal((await hub.cli("forget", "Ben")).code, 0);
  await ben.page.reload();
  await ben.code();
  assert.equal(
    (await hub.cli("approve", "Ben")).code,
    0,
    "naming is enough at the host's own terminal",
  );
  await ben.isIn();

  // A device that is in can be turned away later, in the console: its page learns of the refusal
  // at once.
  const operator = await ConsolePage.open(await Browser.open(bench, "host"), hub);
  const here = operator.page.getByRole("region", { name: "Here now" });
  await here.getByRole("button", { name: "Turn away Ben" }).click();
  await operator.page
    .getByRole("dialog")
    .getByRole("button", { name: "Turn away", exact: true })
    .click();
  await ben.heading("You don’t have access").waitFor();
  await here.getByRole("button", { name: "Turned away (1)" }).click();
  await operator.page.getByRole("button", { name: "Forget Ben" }).click();
  await operator.page.getByText("Nobody is turned away.").waitFor();
});

story("a console link opens the console once", async (bench) => {
  const hub = await Hub.start(bench);
  const browser = await Browser.open(bench, "host");
  const link = await hub.consoleUrl();
  const first = await browser.tab();
  await first.goto(link);
  await first.getByRole("region", { name: "Bring someone in" }).waitFor();
  assert.equal(new URL(first.url()).hash, "", "the secret leaves the address");
  const second = await browser.tab();
  await second.goto(link);
  await second.getByRole("heading", { name: "This console link has expired" }).waitFor();
  await first.reload();
  await first.getByRole("region", { name: "Bring someone in" }).waitFor();
});

story("a visitor may stop knocking", async (bench) => {
  const hub = await Hub.start(bench);
  const ana = await visitor(bench, hub, "Ana");
  const first = await ana.code();
  await ana.page.reload();
  await ana.code();
  await ana.button("Stop knocking").click();
  await ana.heading(`You’re at the door of ${HUB_NAME}`).waitFor();
  await hub.listed("nobody waits", async () =>
    (await hub.devices()).every(({ membership }) => membership !== "pending"),
  );
  await ana.knock("Ana again");
  assert.notEqual(await ana.code(), first, "another knock has other digits");
  assert.equal((await hub.pending("Ana again")).membership, "pending");
});
