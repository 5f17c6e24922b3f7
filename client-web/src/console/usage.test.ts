// Promise: the host reads how much of the list each device takes, and a name cannot reorder its
// line.
import { expect, test } from "vitest";
import { usageWords } from "./usage";

test("each device is named with its share of its limit", () => {
  const usage = {
    bytes: 12_100_000,
    limit_bytes: 268_435_456,
    device_limit_bytes: 67_108_864,
    devices: [{ public_id: "1", name: "Ana", bytes: 12_000_000 }],
  };
  expect(usageWords(usage)).toEqual(["\u2068Ana\u2069: 12.0 MB of 67.1 MB"]);
});
