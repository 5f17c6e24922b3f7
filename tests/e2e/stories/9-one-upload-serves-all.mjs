/**
 * Four devices download at once, one of them ten times slower: nobody waits for the slow one, and
 * the owner sends the file twice at most.
 */
import assert from "node:assert/strict";
import { inFull, story } from "../lib/bench.mjs";
import { MIB } from "../lib/files.mjs";
import { fanOut } from "../lib/fan-out.mjs";

story(
  "three of four downloads share an upload and do not wait for a slow fourth",
  async (bench) => {
    const { factor, peak, quick, slow, rate } = await fanOut(
      bench,
      inFull(512, 16) * MIB,
      inFull(Infinity, 3e6),
    );
    bench.figure("uploaded by the owner", factor, "times the file");
    bench.figure("memory of the relay at its peak", peak / MIB, "MiB");
    bench.figure(
      "three askers, and the slow one",
      [...quick, slow].map((seconds) => seconds.toFixed(1)).join(", "),
      "s",
    );
    bench.figure("rate of the slow one", rate / 1e6, "MB/s");
    // One upload serves the three, another one the slow device.
    assert.ok(factor <= 2.02, `the owner uploaded ${factor} times the file`);
    // A device that waits for the slow one ends with it, apart from the budget of 32 of 512 MiB.
    assert.ok(Math.max(...quick) < slow / 2, `${quick} s beside ${slow} s`);
    assert.ok(peak < 64 * MIB, `the relay held ${peak / MIB} MiB`);
  },
  { patience: 400_000 },
);
