import { expect, test } from "vitest";
import type { JoinRequestInfo } from "../protocol/wire";
import { inFront, waiting } from "./waiting";

const knock = (number: number, address: string): JoinRequestInfo => ({
  request_id: `r${number}`,
  public_id: `d${number}`,
  name: `Device ${number}`,
  kind: "browser",
  platform: "",
  address,
  asked_ms: number,
  tries_left: 3,
});

test("a flood of one address is one line, and other devices stay visible", () => {
  const flood = Array.from({ length: 16 }, (_, number) => knock(number, "192.168.1.66"));
  const ana = knock(99, "192.168.1.34");
  const lines = waiting([...flood, ana], flood[0]);
  expect(lines.map(({ address, knocks }) => [address, knocks.length])).toEqual([
    ["192.168.1.66", 15],
    ["192.168.1.34", 1],
  ]);
});

test("a few devices of one address are named, and the one on the card is not listed again", () => {
  const family = [1, 2, 3, 4].map((number) => knock(number, "10.0.0.1"));
  expect(waiting(family, family[0]).map(({ knocks }) => knocks.map(({ name }) => name))).toEqual([
    ["Device 2"],
    ["Device 3"],
    ["Device 4"],
  ]);
});

test("join requests without an address are never grouped", () => {
  const unknown = [1, 2, 3, 4, 5, 6].map((number) => knock(number, ""));
  expect(waiting(unknown, undefined)).toHaveLength(6);
});

test("a present device comes before one that left", () => {
  const [ana, ben] = [knock(1, "a"), knock(2, "b")];
  const gone = { ...ana, left: true };
  expect(inFront([gone, ben], null)).toBe(ben);
  expect(inFront([gone, ben], gone.public_id)).toBe(gone);
  expect(inFront([gone, { ...ana, request_id: "again" }], ana.public_id)?.request_id).toBe("again");
  expect(inFront([gone], null)).toBe(gone);
  expect(inFront([], null)).toBeUndefined();
});
