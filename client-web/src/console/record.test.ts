// Promise: every decision of the record is said in words, and a name cannot turn its sentence
// around.
import { expect, test } from "vitest";
import { named, recordWords } from "./record";

test.each([
  [
    { event: "knocked", name: "Ana", address: "10.0.0.2" },
    "\u2068Ana\u2069 knocked, from 10.0.0.2",
  ],
  [
    { event: "approved", name: "Ana", how: "invitation" },
    "\u2068Ana\u2069 was let in (by an invitation)",
  ],
  [{ event: "refused", name: "Ana", how: "time_over" }, "\u2068Ana\u2069’s time ran out"],
  [
    { event: "forgotten", public_id: "7d387cb9-0f77-8043-a39c-d63cb318d883" },
    "Device 7d387cb9 may knock again",
  ],
  [{ event: "door", admission: "closed" }, "The door was closed to new devices"],
  [{ event: "door", admission: "ask" }, "New devices are asked about"],
  [{ event: "wrong_code", name: "Ana" }, "A wrong code was entered for \u2068Ana\u2069"],
  [{}, "A line that cannot be read"],
])("%o", (line, words) => {
  expect(recordWords(line)).toBe(words);
});

test("a repeated event says how often", () => {
  const line = { event: "renamed", name: "Ana", count: 40, first_ms: 0 };
  expect(recordWords(line)).toContain("40 times since");
  expect(recordWords({ event: "renamed", name: "Ana" })).not.toContain("times");
});

test("a line without a name gets the device's last known name", () => {
  const lines = [
    { event: "left", public_id: "b" },
    { event: "knocked", public_id: "a", name: "Ana" },
    { event: "wrong_code", public_id: "a" },
    { event: "renamed", public_id: "a", name: "Anna" },
    { event: "forgotten", public_id: "a" },
    { event: "relay_lost" },
  ];
  expect(named(lines).map(({ name }) => name)).toEqual([
    undefined,
    "Ana",
    "Ana",
    "Anna",
    "Anna",
    undefined,
  ]);
});
