/** Story 1: one command starts a hub that says where it is, and a mistake says what to do. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { story } from "../lib/bench.mjs";
import { Browser } from "../lib/browser.mjs";
import { HUB_NAME, Hub, binary, lanyard } from "../lib/hub.mjs";
import { run } from "../lib/processes.mjs";

story("a page from a LAN address works without a secure context", async (bench) => {
  const hub = await Hub.start(bench);
  const browser = await Browser.open(bench, "visitor");
  const page = await browser.tab();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  // The browser mentions one header that plain http cannot have; over https it counts.
  const expected = /^The Cross-Origin-Opener-Policy header has been ignored/;
  page.on(
    "console",
    (message) =>
      message.type() === "error" && !expected.test(message.text()) && problems.push(message.text()),
  );
  await page.goto(hub.url);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  assert.notEqual(new URL(page.url()).hostname, "localhost");
  await page.getByRole("heading", { name: `You’re at the door of ${HUB_NAME}` }).waitFor();
  assert.notEqual(
    await page.getByRole("textbox", { name: "This device" }).inputValue(),
    "",
    "a name is filled in",
  );
  assert.deepEqual(problems, []);
});

story(
  "the first line says where the hub is, and its page comes with its security headers",
  async (bench) => {
    const hub = await Hub.start(bench);
    assert.equal(hub.process.events[0], hub.ready, "ready is the first line");
    assert.equal(hub.ready.listen, `127.0.0.1:${hub.port}`);
    assert.ok(hub.ready.urls.length > 0);
    for (const url of hub.ready.urls) assert.match(url, /^http:\/\//);
    const index = await fetch(hub.local);
    assert.equal(index.status, 200);
    assert.match(index.headers.get("content-type"), /^text\/html/);
    const policy = index.headers.get("content-security-policy");
    for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"])
      assert.ok(policy.includes(part), `${part} in ${policy}`);
    assert.equal(index.headers.get("x-content-type-options"), "nosniff");
    assert.equal(index.headers.get("referrer-policy"), "no-referrer");
    assert.equal((await fetch(`${hub.local}/healthz`)).status, 200);
    const stranger = await run("curl", [
      "-s",
      "-o",
      "/dev/null",
      "-w",
      "%{http_code}",
      "-H",
      "Host: evil.example",
      hub.local,
    ]);
    assert.ok(Number(stranger.stdout) >= 400, `a foreign name is refused: ${stranger.stdout}`);
    assert.deepEqual(await hub.process.stop(), { code: 0, signal: null });
  },
);

story(
  "paths on the command line are shared from the host, and a restart keeps the hub's key",
  async (bench) => {
    const dir = bench.dir("pictures");
    writeFileSync(path.join(dir, "one.txt"), "one");
    writeFileSync(path.join(dir, "two.txt"), "two");
    const film = path.join(bench.dir("films"), "film.mkv");
    writeFileSync(film, "film");
    const hub = await Hub.start(bench, { paths: [dir, film] });
    const folder = path.basename(dir);
    const wanted = [`${folder}/one.txt`, `${folder}/two.txt`, "film.mkv"].sort();
    await hub.listed("the host's files", (files) => files.length === 3);
    assert.deepEqual((await hub.files()).map(({ path }) => path).sort(), wanted);
    await hub.event("files_added");
    const before = (await hub.cli("status")).json;
    await hub.restart();
    const after = (await hub.cli("status")).json;
    assert.match(before.fingerprint, /^[0-9a-f]{32}$/);
    assert.equal(after.fingerprint, before.fingerprint);
    assert.equal(after.epoch, before.epoch);
    await hub.listed("the host's files again", (files) => files.length === 3);
  },
);

story(
  "a second hub, a missing path and an absent hub fail with one sentence and an exit code",
  async (bench) => {
    const hub = await Hub.start(bench);
    const start = (...args) =>
      run(binary(), ["--json", "--headless", ...args], { patience: 20_000 });
    const samePort = await start("--data", bench.dir("other"), "--listen", `127.0.0.1:${hub.port}`);
    assert.equal(samePort.code, 1);
    assert.match(samePort.stderr, /is taken.*--listen/);
    const sameData = await start("--data", hub.data, "--listen", "127.0.0.1:0");
    assert.equal(sameData.code, 1);
    assert.match(sameData.stderr, /a hub runs on .* already/);
    const missing = await start(
      "--data",
      bench.dir("third"),
      "--listen",
      "127.0.0.1:0",
      "/no/such/film.mkv",
    );
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /\/no\/such\/film\.mkv/);
    for (const refused of [samePort, sameData, missing]) {
      assert.equal(refused.stdout, "");
      assert.doesNotMatch(refused.stderr, /panicked/);
    }
    const nobody = await lanyard(bench.dir("empty"), ["devices"]);
    assert.equal(nobody.code, 4);
    assert.match(nobody.stderr, /no hub runs on/);
    assert.equal((await start("--listen", "nonsense")).code, 2);
    assert.equal((await fetch(`${hub.local}/healthz`)).status, 200, "the first hub never noticed");
  },
);
