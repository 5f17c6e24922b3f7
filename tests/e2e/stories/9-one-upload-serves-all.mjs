/** Four askers at once, one of them ten times slower: the owner sends the file once. */
import assert from "node:assert/strict";
import { story } from "../lib/bench.mjs";
import { MIB } from "../lib/files.mjs";
import { fanOut } from "../lib/fan-out.mjs";

story(
  "four askers of one file, one ten times slower: one upload, and the relay stays small",
  async (bench) => {
    const { factor, peak, seconds, rate } = await fanOut(bench, 512 * MIB);
    bench.figure("uploaded by the owner", factor, "times the file");
    bench.figure("memory of the relay at its peak", peak / MIB, "MiB");
    bench.figure("three askers, and the slow one", seconds, "s");
    bench.figure("rate of the slow one", rate / 1e6, "MB/s");
    assert.ok(factor <= 1.02, `the owner uploaded ${factor} times the file`);
    assert.ok(peak < 64 * MIB, `the relay held ${peak / MIB} MiB`);
  },
  { patience: 400_000 },
);
