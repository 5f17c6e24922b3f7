// Promise: at most two of the page's downloads are open, and each row shows what the relay reports.
import { beforeEach, expect, test } from "vitest";
import type { TransferProgress } from "../protocol/wire";
import { Downloads } from "./downloads";

const OWNER = "o";
let downloads: Downloads;

function add(id: string, now = 0) {
  downloads.add(
    {
      id,
      subject: id,
      title: id,
      files: [{ public_id: OWNER, file_id: id }],
      zip: false,
      size: 100,
    },
    now,
  );
}
function progress(
  link_hash: string,
  state: TransferProgress["state"],
  done = 0,
  rate = 10,
): TransferProgress {
  return { link_hash, asker: "me", public_id: OWNER, file_id: "f", done, total: 100, rate, state };
}
function start(now = 0): string[] {
  const turns = downloads.takeTurns(now);
  for (const { id } of turns) downloads.linked(id, `link-${id}`, `/d/${id}`);
  return turns.map(({ id }) => id);
}
const stateOf = (id: string) => downloads.list.find((one) => one.id === id)?.state;

beforeEach(() => {
  downloads = new Downloads();
  for (const id of ["a", "b", "c", "d"]) add(id);
});

test("two downloads start, oldest first, and the others wait", () => {
  expect(start()).toEqual(["a", "b"]);
  expect(start()).toEqual([]);
  downloads.progress(progress("link-a", "running", 50), 1);
  expect(start()).toEqual([]);
  downloads.progress(progress("link-a", "done", 100), 2);
  expect(start()).toEqual(["c"]);
  downloads.cancel("b", 3);
  expect(start()).toEqual(["d"]);
});

test("a waiting download keeps its place, because its connection stays open", () => {
  start();
  downloads.progress(progress("link-a", "waiting"), 1);
  expect(start(1_000_000)).toEqual(["c"]);
  expect(stateOf("a")).toBe("waiting");
});

test("a download that the relay never reports gives its place back", () => {
  start(0);
  expect(start(14_999)).toEqual([]);
  expect(start(15_000)).toEqual(["c", "d"]);
});

test("progress of a foreign or cancelled link changes nothing", () => {
  start();
  expect(downloads.progress(progress("elsewhere", "running"), 1)).toBe(false);
  downloads.cancel("a", 1);
  expect(downloads.progress(progress("link-a", "running"), 2)).toBe(false);
  expect(stateOf("a")).toBe("cancelled");
});

test("the speed is a moving average, and the total is the relay's", () => {
  start();
  downloads.progress(progress("link-a", "running", 10, 100), 0);
  downloads.progress({ ...progress("link-a", "running", 20, 200), total: 400 }, 2_500);
  expect(downloads.list.find(({ id }) => id === "a")).toMatchObject({
    rate: 150,
    size: 400,
    done: 20,
  });
});

test("a reload restores open downloads and marks unstarted ones as failed", () => {
  start();
  const next = new Downloads();
  next.restore(JSON.parse(JSON.stringify(downloads.lasting)) as typeof downloads.list);
  expect(next.progress(progress("link-b", "running", 5), 9)).toBe(true);
  expect(next.list.map(({ id, state }) => `${id} ${state}`)).toEqual([
    "d failed",
    "c failed",
    "b running",
    "a starting",
  ]);
});

test("downloads from before a relay restart are lost until a Resume reports progress", () => {
  start();
  downloads.progress(progress("link-a", "running", 50), 1);
  downloads.cutOff(2);
  expect(stateOf("a")).toBe("failed");
  expect(downloads.list.find(({ id }) => id === "a")?.problem).toMatch(/Resume/);
  downloads.progress(progress("link-a", "running", 60), 3);
  expect(stateOf("a")).toBe("running");
  expect(downloads.list.find(({ id }) => id === "a")?.problem).toBeNull();
});
