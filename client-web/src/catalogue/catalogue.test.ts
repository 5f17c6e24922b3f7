// Promise: the list shows everything once, folders as one row, and stays quick with a hundred
// thousand files.
import { describe, expect, test } from "vitest";
import {
  PLAIN_VIEW,
  type FolderItem,
  browse,
  collect,
  counts,
  filesOf,
  mediaOf,
} from "./catalogue";
import type { Listed } from "./mirror";
import type { Offer } from "../sharing/shares";

let seq = 0;
const listed = (public_id: string, path: string, size = 1): Listed => ({
  public_id,
  instance: "i",
  file_id: path,
  path,
  size,
  modified_ms: 0,
  media_type: "",
  group_log: 18,
  seq: (seq += 1),
});
const offer = (path: string, state: Offer["state"]): Offer => ({
  file_id: path,
  path,
  size: 5,
  modified_ms: 0,
  media_type: "",
  state,
  asked: false,
});
const offers = (...all: Offer[]) => new Map(all.map((one) => [one.file_id, one]));

const items = collect(
  [
    listed("ana", "film.mov", 900),
    listed("ana", "Trip/a.jpg"),
    listed("ana", "Trip/sub/b.jpg", 2),
    listed("ben", "Trip/c.jpg"),
    listed("me", "mine.pdf"),
    { ...listed("ana", "empty"), kind: "folder" },
  ],
  offers(offer("mine.pdf", "shared"), offer("new.txt", "syncing"), offer("bye.txt", "leaving")),
  "me",
);
const names = (rows: { name: string }[]) => rows.map(({ name }) => name);

describe("collecting", () => {
  test("a listed file of mine appears once, with its state; unlisted offers stand on top", () => {
    expect(names(items)).toEqual(["film.mov", "a.jpg", "b.jpg", "c.jpg", "mine.pdf", "new.txt"]);
    expect(items.find(({ name }) => name === "mine.pdf")).toMatchObject({
      mine: true,
      listed: true,
      offer: "shared",
    });
    expect(names(browse(items, PLAIN_VIEW))[0]).toBe("new.txt");
  });
});

describe("browsing", () => {
  test("folders of two owners with one name are two rows, with count and size", () => {
    const folders = browse(items, PLAIN_VIEW).filter(
      (row): row is FolderItem => row.kind === "folder",
    );
    expect(folders.map(({ owner, count, size }) => [owner, count, size])).toEqual([
      ["ben", 1, 1],
      ["ana", 2, 3],
    ]);
  });

  test("a folder opens to its files and folders", () => {
    const inside = browse(items, { ...PLAIN_VIEW, folder: { owner: "ana", prefix: "Trip/" } });
    expect(inside.map(({ kind, name }) => [kind, name])).toEqual([
      ["folder", "sub"],
      ["file", "a.jpg"],
    ]);
  });

  test("searching and filtering look through folders", () => {
    expect(names(browse(items, { ...PLAIN_VIEW, query: "TRIP/S" }))).toEqual(["b.jpg"]);
    expect(names(browse(items, { ...PLAIN_VIEW, filter: "photo", order: "name" }))).toEqual([
      "a.jpg",
      "b.jpg",
      "c.jpg",
    ]);
  });

  test("orders: newest, by name, largest", () => {
    expect(names(browse(items, { ...PLAIN_VIEW, owner: "ana" }))).toEqual(["Trip", "film.mov"]);
    expect(names(browse(items, { ...PLAIN_VIEW, order: "largest" }))[0]).toBe("film.mov");
  });

  test("a folder row stands for all its files", () => {
    const trip = browse(items, { ...PLAIN_VIEW, owner: "ana" })[0];
    expect(trip && names(filesOf([trip], items))).toEqual(["a.jpg", "b.jpg"]);
  });
});

test("kinds come from the type, else from the name", () => {
  expect([
    mediaOf("x", "video/mp4"),
    mediaOf("x.FLAC", ""),
    mediaOf("x.pdf", ""),
    mediaOf("x.tar.gz", ""),
    mediaOf("x", "text/plain"),
    mediaOf("x", ""),
  ]).toEqual(["video", "audio", "document", "archive", "document", "other"]);
  expect(counts(items)).toEqual({ all: 6, photo: 3, video: 1, audio: 0, document: 2 });
});

test("100,000 files are browsed by reading each entry and each path a few times", () => {
  const COUNT = 100_000;
  let reads = 0;
  const counted = <T extends { path: string }>(entry: T): T => {
    const { path } = entry;
    return Object.defineProperty(entry, "path", {
      enumerable: true,
      get: () => {
        reads += 1;
        return path;
      },
    });
  };
  const many = Array.from({ length: COUNT }, (_, at) =>
    counted(listed("ana", at % 2 ? `folder ${at % 50}/file ${at}.jpg` : `file ${at}.jpg`)),
  );
  const all = collect(many, new Map(), "me");
  expect(reads).toBeLessThanOrEqual(8 * COUNT);

  reads = 0;
  expect(collect(many, new Map(), "me")[0]).toBe(all[0]);
  expect(reads, "a list that has not changed is not read again").toBe(0);

  expect(browse(all.map(counted), PLAIN_VIEW)).toHaveLength(50_025);
  expect(reads).toBeLessThanOrEqual(8 * COUNT);
});
