// Promise: numbers are written the way people say them.
import { expect, test } from "vitest";
import { ago, elapsed, grouped, ofSize, percent, plural, remaining, size, speed } from "./format";
import { litSquares } from "./badge";

test("sizes have at most three figures", () => {
  expect(
    [0, 999, 1_000, 8_700_000, 212_000_000, 999_600, 18_400_000_000, 999_999_999].map(size),
  ).toEqual(["0 B", "999 B", "1.0 KB", "8.7 MB", "212 MB", "1.0 MB", "18.4 GB", "1.0 GB"]);
  expect([speed(84_200_000), speed(8_450_000)]).toEqual(["84 MB/s", "8.4 MB/s"]);
  expect([ofSize(11.4e9, 18.4e9), ofSize(5e6, 2e9)]).toEqual([
    "11.4 of 18.4 GB",
    "5.0 MB of 2.0 GB",
  ]);
});

test("the remaining time is exact when short and rounded when long", () => {
  expect([
    remaining(3, 1),
    remaining(83, 1),
    remaining(118, 1),
    remaining(7_200, 1),
    remaining(1, 0),
  ]).toEqual(["3 s left", "1 min 23 s left", "about 2 minutes", "about 2 hours", null]);
});

test("100 % is shown only for a complete file", () => {
  expect([percent(999, 1_000), percent(5, 0), percent(9, 3)]).toEqual([99, 0, 100]);
});

test("times and counts", () => {
  expect([ago(0, 1_000), ago(0, 120_000), ago(0, 7_200_000), elapsed(0, 72_000)]).toEqual([
    "just now",
    "2 min ago",
    "2 h ago",
    "1:12",
  ]);
  expect([plural(1, "file"), plural(10_000, "file"), grouped("aabbccdd0011")]).toEqual([
    "1 file",
    "10,000 files",
    "aabb ccdd 0011",
  ]);
});

test("the badge grows with each digit and is the same on both screens", () => {
  const lit = (digits: string) => litSquares(digits).filter(Boolean).length;
  expect([lit(""), lit("4")]).toEqual([0, 1]);
  for (let length = 1; length < 6; length += 1)
    expect(lit("471208".slice(0, length + 1))).toBeGreaterThanOrEqual(
      lit("471208".slice(0, length)),
    );
  expect(litSquares("471208")).toEqual(litSquares("471208"));
});
