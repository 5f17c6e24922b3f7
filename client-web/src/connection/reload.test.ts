// Promise: a page of another version loads itself again once, and never in a loop.
import { describe, expect, test } from "vitest";
import { Reloads } from "./reload";

function tab() {
  const kept = new Map<string, string>();
  let reloads = 0;
  const storage = {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
    removeItem: (key: string) => void kept.delete(key),
  };
  // Each load of the page creates its own object over the same storage.
  const page = () => new Reloads(storage, () => (reloads += 1));
  return { page, storage, count: () => reloads };
}

describe("a page that is older than the hub", () => {
  test("reloads once, however often it meets that version", () => {
    const one = tab();
    for (let life = 0; life < 50; life += 1) one.page().outdated("3");
    expect(one.count()).toBe(1);
  });

  test("reloads for each version that it has not met", () => {
    const one = tab();
    for (const met of ["3", "3", "4", "4"]) one.page().outdated(met);
    expect(one.count()).toBe(2);
  });

  test("reloads again after a working connection in between", () => {
    const one = tab();
    one.page().outdated("3");
    one.page().settled();
    one.page().outdated("3");
    expect(one.count()).toBe(2);
  });

  test("never reloads without storage", () => {
    for (const broken of [
      { setItem: () => undefined },
      {
        setItem: () => {
          throw new Error("full");
        },
      },
      {
        getItem: () => {
          throw new Error("denied");
        },
      },
    ]) {
      const one = tab();
      let reloads = 0;
      const page = new Reloads({ ...one.storage, ...broken }, () => (reloads += 1));
      for (let met = 0; met < 5; met += 1) page.outdated("3");
      page.settled();
      expect(reloads).toBe(0);
    }
  });
});
