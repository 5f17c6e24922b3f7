import { expect, test } from "vitest";
import { sentence } from "./words";

test("what is refused for want of room is said in the hub's words, which name the bound", () => {
  expect(
    sentence("QUOTA", "the hub's list is full: it keeps 256 MiB for all devices together"),
  ).toBe("The hub's list is full: it keeps 256 MiB for all devices together.");
  expect(sentence("QUOTA")).toBe("This device already shares as much as the hub lists.");
  expect(sentence("BUSY", "anything")).toBe(
    "The hub is passing on as much as it can. You are next.",
  );
});
