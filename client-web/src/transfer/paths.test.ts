// Promise: this page announces no path that the hub would refuse.
import { describe, expect, test } from "vitest";
import { numbered, travelPath } from "./paths";

describe("a path", () => {
  test.each([
    ["a.txt", "a.txt"],
    ["/Trip//day 1/./a.jpg", "Trip/day 1/a.jpg"],
    ["Küche/é 📁.bin", "Küche/é 📁.bin"],
    ["a\\b\nc", "a_b_c"],
    ["bad\ud800end", "bad\ufffdend"],
  ])("%j travels as %j", (raw, path) => {
    expect(travelPath(raw)).toBe(path);
  });

  test.each([
    [""],
    ["/"],
    ["a/../b"],
    [".."],
    ["x".repeat(256)],
    ["ü".repeat(128)],
    [Array.from({ length: 65 }, () => "a").join("/")],
    [Array.from({ length: 30 }, () => "x".repeat(200)).join("/")],
  ])("%j does not", (raw) => {
    expect(travelPath(raw)).toBeNull();
  });

  test("a name that is taken gets a number before its ending", () => {
    expect([numbered("a/b.tar", 2), numbered("b", 3), numbered("a.d/.hidden", 2)]).toEqual([
      "a/b (2).tar",
      "b (3)",
      "a.d/.hidden (2)",
    ]);
  });
});
