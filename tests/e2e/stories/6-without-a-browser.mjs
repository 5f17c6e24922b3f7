/**
 * Story 6: the native device does the same without a browser, in words for people and in JSON for
 * programs.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { inFull, story } from "../lib/bench.mjs";
import { MIB, blake3, makeFile, sha256, sizeOf, tree, treeDigest } from "../lib/files.mjs";
import { Hub, Native, binary, lanyard } from "../lib/hub.mjs";
import { run } from "../lib/processes.mjs";
import { curl } from "../lib/tools.mjs";
import { until } from "../lib/wait.mjs";

const DONE = 0;
const FAILED = 1;
const USAGE = 2;
const NOT_APPROVED = 3;
const NOT_REACHABLE = 4;
const NOT_FOUND = 5;

story("join, ls, share, get and link speak JSON", async (bench) => {
  const hub = await Hub.start(bench);
  const [ana, ben] = await Promise.all(["Ana", "Ben"].map((name) => Native.join(bench, hub, name)));
  const row = (await hub.devices()).find(({ name }) => name === "Ana");
  assert.deepEqual([row.kind, row.membership, row.public_id], ["native", "approved", ana.publicId]);

  const dir = bench.dir("ana");
  const film = await makeFile(dir, "film.mkv", inFull(40, 8) * MIB + 17);
  const trip = path.join(dir, "Trip");
  mkdirSync(path.join(trip, "day 1", "empty"), { recursive: true });
  for (const name of ["map.txt", "day 1/a.txt", "day 1/none.txt"])
    writeFileSync(path.join(trip, name), name.includes("none") ? "" : name);
  const sharing = await ana.share(film, trip);
  const shared = sharing.events.find(({ event }) => event === "shared");
  assert.equal(shared.owner, ana.publicId);

  const list = (await ben.done(["ls"])).json.filter(({ kind }) => kind !== "folder");
  assert.deepEqual(list.map((file) => file.path).sort(), [
    "Trip/day 1/a.txt",
    "Trip/day 1/none.txt",
    "Trip/map.txt",
    "film.mkv",
  ]);
  const listed = list.find((file) => file.path === "film.mkv");
  assert.deepEqual(
    [listed.owner, listed.owner_name, listed.size],
    [ana.publicId, "Ana", sizeOf(film)],
  );
  assert.match(listed.file_id, /^[0-9a-f-]{36}$/);
  assert.ok(listed.modified_ms > 0);

  const out = bench.dir("ben");
  const got = await ben.done(["get", "film.mkv", "Trip", "-o", out]);
  const saved = got.lines.filter(({ event }) => event === "saved");
  assert.ok(saved.length >= 4);
  const root = await blake3(film);
  assert.equal(
    saved.find((file) => file.path === "film.mkv").root,
    root,
    "it verified what it saved",
  );
  assert.equal(await sha256(path.join(out, "film.mkv")), await sha256(film));
  assert.equal(treeDigest(path.join(out, "Trip")), treeDigest(trip));
  assert.equal((await ben.done(["ls"])).json.find((file) => file.path === "film.mkv").root, root);
  assert.deepEqual(
    tree(out).filter((name) => /\.part|\.lanyard/.test(name)),
    [],
    "nothing is left over",
  );

  // A repeated command finds all files in place. An id means the same file.
  const again = await ben.done(["get", listed.file_id, "-o", out]);
  assert.ok(again.lines.some(({ event, already }) => event === "saved" && already === true));

  const child = await run("bash", [
    "-c",
    '"$@" | sha256sum',
    "pipe",
    binary(),
    "--data",
    ben.data,
    "get",
    "film.mkv",
    "-o",
    "-",
  ]);
  assert.equal(
    child.stdout.split(" ")[0],
    await sha256(film),
    "-o - writes the file and nothing else",
  );

  const link = await ben.link("film.mkv");
  const byCurl = path.join(bench.dir("curl"), "film.mkv");
  await curl(link, byCurl);
  assert.equal(await sha256(byCurl), await sha256(film));

  assert.deepEqual((await sharing.stop("SIGINT")).code, DONE, "Ctrl-C is how sharing ends");
  await until(
    "nobody is asked for what is gone",
    async () => (await ben.done(["ls"])).json.length === 0,
    90_000,
  );
});

story("each failure has its exit code and prints only its error", async (bench) => {
  const hub = await Hub.start(bench);
  const [ana, ben] = await Promise.all(["Ana", "Ben"].map((name) => Native.join(bench, hub, name)));
  const dirs = [bench.dir("ana"), bench.dir("ben")];
  const notes = await Promise.all(dirs.map((dir, n) => makeFile(dir, "notes.txt", 1_000 + n)));
  await Promise.all([ana.share(notes[0]), ben.share(notes[1])]);

  const ends = async (code, device, ...args) => {
    const result = await device.cli(...args);
    assert.equal(result.code, code, `lanyard ${args.join(" ")}: ${result.stderr}`);
    assert.match(result.stderr, /\S/, "a sentence says why");
    assert.doesNotMatch(result.stderr, /panicked/);
    return result;
  };
  const out = bench.dir("out");
  await ends(NOT_FOUND, ana, "get", "no such file", "-o", out);
  await ends(NOT_FOUND, ana, "link", "no such file");
  await ends(NOT_FOUND, ana, "share", "/no/such/path");
  await ends(USAGE, ana, "get");
  await ends(USAGE, ana, "get", "http://a.test", "http://b.test", "x");
  const ambiguous = await ends(USAGE, ana, "get", "notes.txt", "-o", out);
  assert.match(ambiguous.stderr, /Ana\/notes\.txt/);
  assert.match(ambiguous.stderr, /Ben\/notes\.txt/);
  await ana.done(["get", "Ben/notes.txt", "-o", out]);
  assert.equal(await sha256(path.join(out, "notes.txt")), await sha256(notes[1]));

  const stranger = { cli: (...args) => lanyard(bench.dir("stranger"), args) };
  await ends(NOT_APPROVED, stranger, "ls");
  await ends(NOT_APPROVED, stranger, "ls", hub.local);
  await ends(NOT_REACHABLE, stranger, "ls", "http://127.0.0.1:9");
  await ends(NOT_REACHABLE, stranger, "join", "http://127.0.0.1:9");

  const data = bench.dir("mallory");
  const joining = lanyard(data, ["join", hub.local, "--name", "Mallory"]);
  await hub.pending("Mallory");
  assert.equal((await hub.cli("refuse", "Mallory")).code, DONE);
  assert.equal((await joining).code, NOT_APPROVED, "join returns when it is refused");
  assert.equal((await lanyard(data, ["ls", hub.local])).code, NOT_APPROVED);
  assert.equal((await lanyard(data, ["join", hub.local])).code, NOT_APPROVED, "and so it stays");

  await hub.process.stop();
  await ends(NOT_REACHABLE, ana, "ls");
});

story(
  "get never replaces a file, and one that changes while it is fetched fails as a whole",
  async (bench) => {
    const hub = await Hub.start(bench);
    const [ana, ben] = await Promise.all(
      ["Ana", "Ben"].map((name) => Native.join(bench, hub, name)),
    );
    const dir = bench.dir("ana");
    const notes = await makeFile(dir, "notes.txt", 2_000);
    const disk = await makeFile(dir, "disk.img", inFull(64, 12) * MIB);
    await ana.share(notes, disk);
    const out = bench.dir("ben");
    const mine = path.join(out, "notes.txt");
    writeFileSync(mine, "my own notes");
    const got = await ben.done(["get", "notes.txt", "-o", out]);
    const { saved_as } = got.lines.find(({ event }) => event === "saved");
    assert.equal(
      await sha256(mine),
      createHash("sha256").update("my own notes").digest("hex"),
      "what was there stays",
    );
    assert.equal(await sha256(path.resolve(out, saved_as)), await sha256(notes));

    appendFileSync(disk, "changed");
    const failed = await ben.cli("get", "disk.img", "-o", out);
    const saw = failed.lines.find(({ event }) => event === "failed" || event === "saved");
    // Either the old version fails, or the new one has been listed in the meantime and arrives
    // whole.
    if (failed.code === DONE)
      assert.equal(await sha256(path.resolve(out, saw.saved_as)), await sha256(disk));
    else assert.ok([FAILED, NOT_FOUND].includes(failed.code), `${failed.code}: ${failed.stderr}`);
  },
);
