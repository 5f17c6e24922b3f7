// Promise: an invalid entry is ignored, by the same rules as in every other client.
import { expect, test } from "vitest";
import type { FileEntry } from "../protocol/wire";
import { canBe } from "./entries";

const SOUND: FileEntry = {
  public_id: "a",
  instance: "i",
  file_id: "f",
  path: "a/b.txt",
  size: 1,
  modified_ms: 0,
  media_type: "",
  group_log: 18,
};

test("valid entries are read", () => {
  const long = Array.from({ length: 16 }, () => "ü".repeat(127)).join("/");
  for (const path of [
    "a",
    "a/b.txt",
    "Küche/é 📁.bin",
    "...",
    ".a",
    "a.",
    "x".repeat(255),
    Array(64).fill("a").join("/"),
    long,
  ]) {
    expect(canBe({ ...SOUND, path }), path).toBe(true);
  }
});

test("entries with invalid paths are skipped", () => {
  const deep = Array(65).fill("a").join("/");
  for (const path of [
    "",
    ".",
    "..",
    "../a",
    "a/..",
    "a/./b",
    "/a",
    "a/",
    "a//b",
    "a\\b",
    "a\0",
    "a\nb",
    "a\u0085b",
    "x".repeat(256),
    "ü".repeat(128),
    deep,
    "a/".repeat(3_000) + "a",
  ]) {
    expect(canBe({ ...SOUND, path }), JSON.stringify(path.slice(0, 40))).toBe(false);
  }
});

test("entries with invalid sizes or group sizes are skipped", () => {
  for (const change of [
    { size: -1 },
    { size: 0.5 },
    { size: 2 ** 40 + 1, group_log: 24 },
    { group_log: 17 },
    { group_log: 19 },
    { group_log: 64 },
  ]) {
    expect(canBe({ ...SOUND, ...change }), JSON.stringify(change)).toBe(false);
  }
  expect(canBe({ ...SOUND, size: 2 ** 40, group_log: 24 })).toBe(true);
});
