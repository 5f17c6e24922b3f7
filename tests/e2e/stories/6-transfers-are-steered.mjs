/**
 * Story 6: a running download is limited, paused, resumed and cancelled from another terminal;
 * what is here is copied.
 */
import assert from "node:assert/strict";
import { existsSync, rmSync } from "node:fs";
import path from "node:path";
import { story } from "../lib/bench.mjs";
import { MIB, makeFile, sha256 } from "../lib/files.mjs";
import { Hub, Native } from "../lib/hub.mjs";
import { until } from "../lib/wait.mjs";

const FAILED = 1;
const USAGE = 2;
const NOT_REACHABLE = 4;
const NOT_FOUND = 5;
const SIZE = 12 * MIB;

/** Has Ana share a film, and Ben download it at 2 MiB per second at most. */
async function onTheWay(bench) {
  const hub = await Hub.start(bench);
  const [ana, ben] = await Promise.all(["Ana", "Ben"].map((name) => Native.join(bench, hub, name)));
  const film = await makeFile(bench.dir("ana"), "film.mkv", SIZE);
  const sharing = await ana.share(film);
  const out = bench.dir("ben");
  const getting = ben.get("film.mkv", "-o", out, "--limit-down", "2M");
  const moving = (list) => list.find(({ direction, done }) => direction === "down" && done >= MIB);
  const transfer = await until("bytes come", async () =>
    moving((await ben.done(["transfers"])).json),
  );
  return { hub, ana, ben, film, sharing, out, getting, transfer };
}

story(
  "a download is paused, resumed and freed of its limit from another terminal",
  async (bench) => {
    const { ana, ben, film, sharing, out, getting, transfer } = await onTheWay(bench);
    assert.deepEqual(
      [transfer.owner_name, transfer.files, transfer.total, transfer.state],
      ["Ana", 1, SIZE, "running"],
    );
    assert.equal(transfer.process, getting.pid);
    const [limits] = (await ben.done(["limit"])).json;
    assert.deepEqual(limits, { process: getting.pid, up: null, down: 2 * MIB });

    const up = await until("the owner sees it", async () =>
      (await ana.done(["transfers"])).json.find(({ direction }) => direction === "up"),
    );
    assert.deepEqual(
      [up.transfer_id, up.asker_name, up.process],
      [transfer.transfer_id, "Ben", sharing.pid],
    );
    const refused = await ana.cli("cancel", up.transfer_id);
    assert.equal(refused.code, FAILED);
    assert.match(refused.stderr, /stop sharing/);

    await ben.done(["pause", transfer.transfer_id.slice(0, 13)]);
    await getting.event("paused");
    const [paused] = (await ben.done(["transfers"])).json;
    assert.equal(paused.state, "paused");
    assert.deepEqual((await ben.done(["limit", "--down", "none"])).json[0].down, null);
    // Without a limit the whole film would arrive long before the other one.
    await ben.done(["get", "film.mkv", "-o", bench.dir("meanwhile")]);
    const [later] = (await ben.done(["transfers"])).json;
    assert.ok(later.state === "paused" && later.done < SIZE);
    assert.ok(!existsSync(path.join(out, "film.mkv")));

    await ben.done(["resume", "all"]);
    const { code } = await getting.ended;
    assert.equal(code, 0);
    assert.ok(getting.events.some(({ event }) => event === "resumed"));
    assert.equal(await sha256(path.join(out, "film.mkv")), await sha256(film));
    assert.deepEqual((await ben.done(["transfers"])).json, []);
  },
);

story(
  "a cancelled download exits with 1 and can be continued; a second copy is made locally",
  async (bench) => {
    const { ben, film, out, getting } = await onTheWay(bench);
    assert.equal((await ben.cli("cancel", "ffffffff")).code, NOT_FOUND);
    await ben.done(["cancel", "all"]);
    const { code } = await getting.ended;
    assert.equal(code, FAILED);
    assert.match(getting.stderr, /the same command goes on/);
    assert.ok(!existsSync(path.join(out, "film.mkv")));

    const again = await ben.done(["get", "film.mkv", "-o", out]);
    const first = again.lines.find(({ event }) => event === "progress");
    assert.ok(first.done >= MIB / 2, "what came is not fetched again");
    const wanted = await sha256(film);
    assert.equal(await sha256(path.join(out, "film.mkv")), wanted);

    await until("the list has its root", async () =>
      (await ben.done(["ls"])).json.find((file) => file.root),
    );
    rmSync(film);
    const second = bench.dir("second");
    const copied = await ben.done(["get", "film.mkv", "-o", second]);
    assert.equal(copied.lines.find(({ event }) => event === "saved").copied, true);
    assert.equal(await sha256(path.join(second, "film.mkv")), wanted);
  },
);

story("a transfer that cannot be steered fails with its exit code", async (bench) => {
  const hub = await Hub.start(bench);
  const ana = await Native.join(bench, hub, "Ana");
  assert.deepEqual((await ana.done(["transfers"])).json, []);
  for (const [code, ...args] of [
    [NOT_FOUND, "pause", "all"],
    [NOT_REACHABLE, "limit", "--up", "5M"],
    [USAGE, "limit", "--up", "1K"],
    [USAGE, "get", "x", "--limit-down", "fast"],
  ]) {
    const { code: ended, stderr } = await ana.cli(...args);
    assert.equal(ended, code, `${args.join(" ")}: ${stderr}`);
    assert.match(stderr, /\S/);
  }
  // The host's own uploads can be limited as well.
  await until("they can be changed", async () => (await hub.cli("limit", "--up", "5M")).code === 0);
});
