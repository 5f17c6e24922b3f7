import { expect, test } from "vitest";
import { sentence } from "./words";

test("a refusal for lack of room is shown in the hub's words, which name the limit", () => {
  expect(
    sentence("QUOTA", "the hub's list is full: it keeps 256 MiB for all devices together"),
  ).toBe("The hub's list is full: it keeps 256 MiB for all devices together.");
  expect(sentence("QUOTA")).toBe("This device already shares as much as the hub can list.");
  expect(sentence("BUSY", "anything")).toBe(
    "The hub is busy right now. Your turn comes by itself.",
  );
});
