// Promise: every message of the wire is understood, and nothing that arrives can throw.
import { readFileSync, readdirSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { decode, encode } from "./codec";
import { MAX_FRAME_BYTES } from "./limits";
import type { DeviceToRelay, MasterToConsole, RelayToDevice } from "./wire";

const folder = resolve(process.cwd(), "../protocol/vectors/messages");
const samples = readdirSync(folder).map((name) => ({
  name,
  text: readFileSync(resolve(folder, name), "utf8"),
}));
const heard = samples.filter(
  ({ name }) => name.startsWith("relay-to-device.") || name.startsWith("master-to-console."),
);
const said = samples.filter(
  ({ name }) => name.startsWith("device-to-relay.") || name.startsWith("console-to-master."),
);

test("there are samples of all four directions", () => {
  expect(heard.length).toBeGreaterThan(40);
  expect(said.length).toBeGreaterThan(10);
});

test.each(heard)("$name is heard", ({ name, text }) => {
  const decoded = decode<RelayToDevice | MasterToConsole>(text);
  expect(decoded.kind).toBe("message");
  if (decoded.kind === "message") expect(name).toContain(`.${decoded.message.opcode}.`);
});

test.each(said)("$name survives the way out", ({ text }) => {
  const { ref, ...message } = JSON.parse(text) as DeviceToRelay & { ref?: string };
  expect(JSON.parse(encode(message as DeviceToRelay, ref))).toEqual(JSON.parse(text));
});

describe("an invalid frame", () => {
  test.each([
    ["", "not JSON"],
    ["[]", "no opcode"],
    ["{}", "no opcode"],
    ['{"opcode":"PONG"}', "PONG without data"],
    ['{"opcode":"PONG","data":{},"ref":1}', "ref is no text"],
    ["null", "no opcode"],
  ])("%s is named", (frame, why) => expect(decode(frame)).toEqual({ kind: "invalid", why }));

  test("bytes and oversized frames are refused", () => {
    expect(decode(new ArrayBuffer(2)).kind).toBe("invalid");
    expect(decode(" ".repeat(MAX_FRAME_BYTES + 1))).toEqual({ kind: "invalid", why: "too large" });
  });

  test("a newer hub's message is reported, not fatal", () => {
    expect(decode('{"opcode":"TREE_PAGE","data":{}}')).toEqual({
      kind: "unknown",
      opcode: "TREE_PAGE",
    });
    expect(decode('{"opcode":"toString","data":{}}')).toEqual({
      kind: "unknown",
      opcode: "toString",
    });
  });
});
