// Promise: a row shows what is known of its owner, and claims nothing while the relay is out of
// reach.
import { expect, test } from "vitest";
import type { FileItem } from "../../catalogue/catalogue";
import type { Download } from "../../downloads/downloads";
import { type Facts, statusOf } from "./status";

const item = { kind: "file", mine: false, gone: null } as Partial<FileItem> as FileItem;
const facts = (owner: Facts["owner"], download?: Partial<Download>): Facts => ({
  download: download as Download | undefined,
  outgoing: [],
  finished: 0,
  owner,
  ownerName: "Ana",
  hubName: "Studio PC",
  nameOf: () => "Ana",
  now: 0,
});

test.each<[Facts["owner"], string, string]>([
  ["here", "", "Waiting for its turn"],
  ["asleep", "Away until it reconnects", "Waiting for Ana"],
  ["unknown", "", "Waiting for Studio PC"],
])("an owner who is %s", (owner, rest, waiting) => {
  expect(statusOf(item, facts(owner))).toMatchObject({
    at: "idle",
    text: rest,
    asleep: owner === "asleep",
  });
  expect(
    statusOf(item, facts(owner, { id: "1", state: "waiting", done: 1, size: 2 })),
  ).toMatchObject({ at: "arriving", lead: waiting });
});
