// Promise: this tab's offers and the hub's list are reconciled, and no unreadable file is
// announced.
import { beforeEach, describe, expect, test } from "vitest";
import { MAX_FILES_A_MESSAGE, MAX_LIST_BYTES } from "../protocol/limits";
import type { NewFile } from "../protocol/wire";
import { fromPicker } from "../transfer/gather";
import type { Listed } from "../catalogue/mirror";
import { Shares, batches } from "./shares";

const ME = "00000001-0000-8000-8000-000000000000";
let count = 0;
const newId = () => `id${(count += 1)}`;
const file = (name: string, size = 3, lastModified = 1_000) =>
  new File(["x".repeat(size)], name, { lastModified });
const listed = (offer: NewFile, instance = "aa"): Listed => ({
  ...offer,
  public_id: ME,
  instance,
  group_log: 18,
  seq: 1,
});
const states = (shares: Shares) => [...shares.offers.values()].map(({ state }) => state);

let shares: Shares;
beforeEach(() => {
  count = 0;
  shares = new Shares();
});

describe("picking", () => {
  test("a version picked twice is one offer", () => {
    expect(shares.add(fromPicker([file("a.txt")]), newId).fresh).toHaveLength(1);
    const again = shares.add(fromPicker([file("a.txt")]), newId);
    expect(again).toMatchObject({ fresh: [], duplicates: 1 });
  });

  test("invalid paths are counted, and the other files are offered", () => {
    const added = shares.add(
      {
        picked: [
          { file: file("a"), path: "../a" },
          { file: file("b"), path: "b" },
        ],
        emptyFolders: [],
        unreadable: ["c"],
      },
      newId,
    );
    expect(added.fresh.map(({ path }) => path)).toEqual(["b"]);
    expect(added.skipped).toEqual(["c", "../a"]);
  });

  test("an empty folder is an entry of its own", () => {
    const { fresh } = shares.add(
      { picked: [], emptyFolders: ["Trip/later"], unreadable: [] },
      newId,
    );
    expect(fresh[0]).toMatchObject({ path: "Trip/later", kind: "folder", size: 0 });
  });

  test("another version under the same path is a rival, the same one is not", () => {
    shares.add(fromPicker([file("a.txt")]), newId);
    expect(shares.rival("a.txt", file("a.txt", 4))?.file_id).toBe("id1");
    expect(shares.rival("a.txt", file("a.txt"))).toBeUndefined();
  });
});

describe("after a reload", () => {
  const known: NewFile = {
    file_id: "old",
    path: "Tax 2025/a.pdf",
    size: 3,
    modified_ms: 1_000,
    media_type: "application/pdf",
  };

  test("a file without its handle is withdrawn, not removed, and stays to be picked again", () => {
    expect(shares.reconcile([listed(known)], "aa")).toEqual({
      announce: [],
      withdraw: ["old"],
      remove: [],
    });
    expect(states(shares)).toEqual(["lost"]);
  });

  test("picking it again reclaims its id, so the same links keep working", () => {
    shares.restore([known]);
    const added = shares.add(
      {
        picked: [{ file: file("a.pdf"), path: "Tax 2025/a.pdf" }],
        emptyFolders: [],
        unreadable: [],
      },
      newId,
    );
    expect(added).toMatchObject({ reclaimed: 1, duplicates: 0 });
    expect(added.fresh[0]).toMatchObject({
      file_id: "old",
      media_type: "application/pdf",
      state: "syncing",
    });
  });

  test("it is known without its folder too, if size and time agree", () => {
    shares.restore([known]);
    expect(shares.add(fromPicker([file("a.pdf")]), newId).fresh[0]?.file_id).toBe("old");
    expect(shares.add(fromPicker([file("a.pdf", 9)]), newId).fresh[0]?.file_id).toBe("id1");
  });

  test("offers kept for the next reload can be restored", () => {
    shares.add(fromPicker([file("b.txt")]), newId);
    const next = new Shares();
    next.restore(JSON.parse(JSON.stringify(shares.lasting)) as NewFile[]);
    expect(states(next)).toEqual(["lost"]);
    expect(next.handle("id1")).toBeUndefined();
  });
});

describe("agreeing with the list", () => {
  test("an unlisted offer is announced again, unless its request is pending", () => {
    shares.add(fromPicker([file("a"), file("b")]), newId);
    shares.set("id1", { state: "shared" });
    shares.set("id2", { asked: true });
    expect(shares.reconcile([], "aa").announce.map(({ file_id }) => file_id)).toEqual(["id1"]);
    shares.disconnected();
    expect(shares.reconcile([], "aa").announce.map(({ file_id }) => file_id)).toEqual([
      "id1",
      "id2",
    ]);
  });

  test("a file listed under another instance of this device is taken over", () => {
    const { fresh } = shares.add(fromPicker([file("a")]), newId);
    expect(
      shares.reconcile(
        fresh.map((offer) => listed(offer, "bb")),
        "aa",
      ),
    ).toMatchObject({ announce: [{ file_id: "id1" }], withdraw: [] });
  });

  test("another tab's files are left alone", () => {
    const other: NewFile = { file_id: "zz", path: "z", size: 1, modified_ms: 0, media_type: "" };
    expect(shares.reconcile([listed(other, "bb")], "aa")).toEqual({
      announce: [],
      withdraw: [],
      remove: [],
    });
    expect(states(shares)).toEqual([]);
  });

  test("a stopped file that is still listed is removed", () => {
    const { fresh } = shares.add(fromPicker([file("a")]), newId);
    shares.set("id1", { state: "leaving" });
    expect(
      shares.reconcile(
        fresh.map((offer) => listed(offer)),
        "aa",
      ).remove,
    ).toEqual(["id1"]);
    expect(shares.reconcile([], "aa").remove).toEqual([]);
    expect(shares.offers.size).toBe(0);
  });
});

describe("batches", () => {
  const many = (total: number, path: (at: number) => string): NewFile[] =>
    Array.from({ length: total }, (_, at) => ({
      file_id: `id${at}`,
      path: path(at),
      size: at,
      modified_ms: at,
      media_type: "",
    }));

  test("10,000 files are 20 messages of at most 512 entries, in order", () => {
    const all = batches(many(10_000, (at) => `f/${at}`));
    expect(all).toHaveLength(20);
    expect(all.every((batch) => batch.length <= MAX_FILES_A_MESSAGE)).toBe(true);
    expect(all.flat().map(({ size }) => size)).toEqual(
      Array.from({ length: 10_000 }, (_, at) => at),
    );
  });

  test("long names make shorter batches", () => {
    for (const batch of batches(many(600, (at) => `${"ü".repeat(500)}/${at}`))) {
      expect(new TextEncoder().encode(JSON.stringify(batch)).length).toBeLessThanOrEqual(
        MAX_LIST_BYTES + 2,
      );
    }
  });
});
