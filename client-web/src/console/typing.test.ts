// Promise: digits belong to the knock they were typed for, and never pass to another.
import { expect, test } from "vitest";
import type { JoinRequestInfo } from "../protocol/wire";
import { NOTHING_TYPED, facing, refused, triesWords, typed } from "./typing";

const knock = (request_id: string, public_id = "ana"): JoinRequestInfo => ({
  request_id,
  public_id,
  name: "Ana",
  kind: "browser",
  platform: "",
  address: "",
  asked_ms: 0,
  tries_left: 3,
});

test("only digits count, and only six", () => {
  expect(typed(NOTHING_TYPED, "47 12-08 99").digits).toBe("471208");
});

test("typing survives a list that did not change this knock", () => {
  const typing = typed(facing(NOTHING_TYPED, knock("r1"), null), "47");
  expect(facing(typing, knock("r1"), "ana")).toBe(typing);
});

test("a renewed join request of the same device clears the digits and says so", () => {
  const typing = typed(facing(NOTHING_TYPED, knock("r1"), null), "47");
  expect(facing(typing, knock("r2"), "ana")).toMatchObject({
    request: "r2",
    digits: "",
    wrong: expect.stringContaining("new") as string,
  });
});

test("the next device in the queue gets none of the digits", () => {
  const typing = typed(facing(NOTHING_TYPED, knock("r1"), null), "471208");
  expect(facing(typing, knock("r9", "ben"), "ana")).toEqual({
    request: "r9",
    digits: "",
    wrong: null,
  });
  expect(facing(typing, undefined, "ana")).toEqual(NOTHING_TYPED);
});

test("a wrong code is cleared and explained, an unanswered one is kept", () => {
  const typing = typed(facing(NOTHING_TYPED, knock("r1"), null), "471208");
  expect(refused(typing, "WRONG_CODE")).toMatchObject({
    digits: "",
    wrong: expect.stringContaining("read it again") as string,
  });
  expect(refused(typing, "TIMED_OUT").digits).toBe("471208");
  expect([triesWords(2), triesWords(1), triesWords(0)]).toEqual([
    "2 tries are left.",
    "One try is left.",
    "They get new digits.",
  ]);
});
