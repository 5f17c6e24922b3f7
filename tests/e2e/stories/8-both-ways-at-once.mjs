/**
 * Two browsers download ten files from each other at the same time: with six connections per
 * origin, nobody waits for ever.
 */
import assert from "node:assert/strict";
import { inFull, story } from "../lib/bench.mjs";
import { KIB, MIB, makeFile, sha256, sizeOf } from "../lib/files.mjs";
import { Hub } from "../lib/hub.mjs";
import { DevicePage } from "../lib/pages.mjs";

/** A window for all twenty rows, since the list draws only visible ones. */
const TALL = { width: 1280, height: 1800 };

story(
  "ten files each way at the same time all arrive",
  async (bench) => {
    const hub = await Hub.start(bench);
    const dir = bench.dir("files");
    const make = (owner) =>
      Promise.all(
        Array.from({ length: 10 }, (_, n) =>
          makeFile(
            dir,
            `${owner} ${n + 1}.bin`,
            inFull((6 + 3 * n) * MIB, (1 + n) * 100 * KIB) + n,
          ),
        ),
      );
    const [ana, ben, anas, bens] = await Promise.all([
      ...["Ana", "Ben"].map((name) => DevicePage.enter(bench, hub, name, { viewport: TALL })),
      make("ana"),
      make("ben"),
    ]);
    await Promise.all([ana.shareFiles(...anas), ben.shareFiles(...bens)]);
    await hub.listed("twenty files", (files) => files.length === 20);
    const askAll = async (page, owner) => {
      for (let n = 1; n <= 10; n += 1) await page.startDownload(`${owner} ${n}.bin`);
    };
    const started = Date.now();
    await Promise.all([askAll(ana, "ben"), askAll(ben, "ana")]);
    const check = async (page, files) => {
      for (const file of files) {
        const name = file.split("/").at(-1);
        const saved = await page.browser.downloaded(name, sizeOf(file));
        await page
          .row(name)
          .getByText(/^Saved/)
          .waitFor();
        assert.equal(await sha256(saved), await sha256(file), name);
      }
    };
    await Promise.all([check(ana, bens), check(ben, anas)]);
    bench.figure("twenty files, two browsers", Date.now() - started, "ms");
    assert.deepEqual([...ana.problems, ...ben.problems], []);
  },
  { patience: 300_000 },
);
