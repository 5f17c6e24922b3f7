// Promise: after any order of pages, pushes and losses the copy equals the feed, or knows that it
// must pull.
import { beforeEach, describe, expect, test } from "vitest";
import type { FeedChange, FeedPage, FileEntry } from "../protocol/wire";
import { Mirror } from "./mirror";

const ANA = "00000001-0000-8000-8000-000000000000";
const BEN = "00000002-0000-8000-8000-000000000000";

function file(owner: string, id: string, instance = "aa"): FileEntry {
  return {
    public_id: owner,
    instance,
    file_id: id,
    path: `${id}.txt`,
    size: 1,
    modified_ms: 0,
    media_type: "",
    group_log: 18,
  };
}
function client(public_id: string, name = "x") {
  return { public_id, name, kind: "browser" as const, platform: "" };
}
function page(more: Partial<FeedPage>): FeedPage {
  return {
    mode: "SNAPSHOT",
    epoch: 7,
    revision: 10,
    clients: [],
    files: [],
    gone: [],
    last: true,
    ...more,
  };
}
function added(revision: number, id: string, epoch = 7): FeedChange {
  return {
    opcode: "FILES_ADDED",
    data: { public_id: ANA, files: [file(ANA, id)], epoch, revision, audience: "all" },
  };
}
const ids = (mirror: Mirror) => [...mirror.files.values()].map(({ file_id }) => file_id).sort();

let mirror: Mirror;
beforeEach(() => {
  mirror = new Mirror();
  mirror.beginPull();
  mirror.page(
    page({ clients: [client(ANA), client(BEN)], files: [file(ANA, "a"), file(BEN, "b")] }),
  );
});

describe("an entry that cannot be", () => {
  const bad = { ...file(ANA, "bad"), path: "../up" };

  test("is skipped in a page without the other entries", () => {
    mirror.beginPull();
    mirror.page(
      page({ revision: 11, clients: [client(ANA)], files: [file(ANA, "c"), bad, file(ANA, "d")] }),
    );
    expect(ids(mirror)).toEqual(["c", "d"]);
    expect(mirror.resume).toEqual({ epoch: 7, revision: 11 });
  });

  test("is skipped in a change", () => {
    const change = added(11, "c");
    if (change.opcode === "FILES_ADDED") change.data.files.unshift(bad);
    expect(mirror.hear(change)).toMatchObject({ gap: false, changed: true });
    expect(ids(mirror)).toEqual(["a", "b", "c"]);
  });
});

describe("what others do costs what it says", () => {
  test("removing a device visits its own files only", () => {
    mirror.beginPull();
    const files = [file(ANA, "a"), ...Array.from({ length: 3_000 }, (_, n) => file(BEN, `b${n}`))];
    mirror.page(page({ revision: 11, clients: [client(ANA), client(BEN)], files }));
    let looks = 0;
    const values = mirror.files.values.bind(mirror.files);
    mirror.files.values = () => {
      looks += mirror.files.size;
      return values();
    };
    for (let revision = 12; revision < 112; revision += 1) {
      mirror.hear({
        opcode: "CLIENT_DIS_APPROVED",
        data: {
          public_id: revision === 50 ? ANA : `nobody ${revision}`,
          epoch: 7,
          revision,
          audience: "all",
        },
      });
    }
    expect(looks).toBe(0);
    expect([mirror.files.size, mirror.clients.size]).toEqual([3_000, 1]);
  });

  test("changes without end during a pull are dropped and pulled again", () => {
    mirror.beginPull();
    for (let revision = 11; revision < 11 + 4_097; revision += 1) mirror.hear(added(revision, "x"));
    expect(mirror.page(page({ revision: 12, clients: [client(ANA)], files: [] })).gap).toBe(true);
  });
});

describe("pushed changes", () => {
  test("the next one is applied", () => {
    expect(mirror.hear(added(11, "c"))).toMatchObject({ gap: false, changed: true });
    expect(ids(mirror)).toEqual(["a", "b", "c"]);
    expect(mirror.resume).toEqual({ epoch: 7, revision: 11 });
  });

  test("an old one is dropped, a later one is a gap", () => {
    expect(mirror.hear(added(10, "c"))).toEqual({ gap: false, changed: false });
    expect(mirror.hear(added(12, "c"))).toEqual({ gap: true, changed: false });
    expect(mirror.hear(added(11, "c", 8))).toEqual({ gap: true, changed: false });
    expect(ids(mirror)).toEqual(["a", "b"]);
  });

  test("a root becomes known without touching anything else", () => {
    mirror.hear({
      opcode: "FILES_UPDATED",
      data: {
        public_id: ANA,
        files: [{ file_id: "a", root: "ff" }],
        epoch: 7,
        revision: 11,
        audience: "all",
      },
    });
    expect(mirror.files.get(`${ANA}/a`)).toMatchObject({ root: "ff", path: "a.txt", seq: 1 });
  });

  test("a removal names what left", () => {
    const heard = mirror.hear({
      opcode: "FILE_REMOVED",
      data: { public_id: ANA, file_ids: ["a", "zz"], epoch: 7, revision: 11, audience: "all" },
    });
    expect(heard.left).toMatchObject({
      public_id: ANA,
      withdrawn: false,
      files: [{ file_id: "a" }],
    });
  });

  test("a withdrawal without ids means all of that instance", () => {
    mirror.hear({
      opcode: "FILES_ADDED",
      data: {
        public_id: ANA,
        files: [file(ANA, "c", "bb")],
        epoch: 7,
        revision: 11,
        audience: "all",
      },
    });
    const heard = mirror.hear({
      opcode: "FILES_WITHDRAWN",
      data: { public_id: ANA, instance: "aa", epoch: 7, revision: 12, audience: "all" },
    });
    expect(heard.left).toMatchObject({ withdrawn: true, files: [{ file_id: "a" }] });
    expect(ids(mirror)).toEqual(["b", "c"]);
  });

  test("a refused device goes with its files", () => {
    mirror.hear({
      opcode: "CLIENT_DIS_APPROVED",
      data: { public_id: ANA, epoch: 7, revision: 11, audience: "all" },
    });
    expect(ids(mirror)).toEqual(["b"]);
    expect(mirror.clients.has(ANA)).toBe(false);
  });
});

describe("a pull", () => {
  test("keeps the changes that arrive meanwhile, and applies them after the last page", () => {
    expect(mirror.beginPull()).toEqual({ epoch: 7, since: 10 });
    expect(mirror.hear(added(12, "d"))).toEqual({ gap: false, changed: false });
    expect(mirror.page(page({ mode: "DELTA", revision: 11, files: [file(ANA, "c")] }))).toEqual({
      more: null,
      gap: false,
    });
    expect(ids(mirror)).toEqual(["a", "b", "c", "d"]);
    expect(mirror.revision).toBe(12);
  });

  test("with a gap in the kept changes asks for another pull", () => {
    mirror.beginPull();
    mirror.hear(added(13, "d"));
    expect(mirror.page(page({ mode: "DELTA", revision: 11 })).gap).toBe(true);
  });

  test("by snapshot drops entries that no page named, after the last page", () => {
    mirror.beginPull();
    expect(
      mirror.page(
        page({
          epoch: 9,
          revision: 3,
          clients: [client(BEN)],
          files: [file(BEN, "n")],
          last: false,
          cursor: "next",
        }),
      ),
    ).toEqual({ more: "next", gap: false });
    expect(ids(mirror)).toEqual(["a", "b", "n"]);
    mirror.page(page({ epoch: 9, revision: 4, files: [file(BEN, "o")] }));
    expect(ids(mirror)).toEqual(["n", "o"]);
    expect(mirror.clients.has(ANA)).toBe(false);
    expect(mirror.resume).toEqual({ epoch: 9, revision: 4 });
  });

  test("by delta removes a file, or a device and its files", () => {
    mirror.beginPull();
    mirror.page(
      page({
        mode: "DELTA",
        revision: 12,
        gone: [{ public_id: ANA }, { public_id: BEN, file_id: "b" }],
      }),
    );
    expect(ids(mirror)).toEqual([]);
    expect([...mirror.clients.keys()]).toEqual([BEN]);
  });

  test("that is up to date changes nothing", () => {
    mirror.beginPull();
    mirror.page(page({ mode: "UP_TO_DATE" }));
    expect(ids(mirror)).toEqual(["a", "b"]);
  });

  test("that is cut off keeps the revision", () => {
    mirror.beginPull();
    mirror.page(
      page({ mode: "DELTA", revision: 20, files: [file(ANA, "c")], last: false, cursor: "x" }),
    );
    mirror.abandonPull();
    expect(mirror.resume).toEqual({ epoch: 7, revision: 10 });
  });
});

test("an empty mirror asks for everything", () => {
  expect(new Mirror().beginPull()).toEqual({ epoch: 0, since: 0 });
  expect(new Mirror().resume).toBeUndefined();
});

test("an entry met twice keeps its place in the order", () => {
  mirror.hear(added(11, "c"));
  mirror.hear(added(12, "a"));
  expect(mirror.files.get(`${ANA}/a`)?.seq).toBe(1);
});

test("random schedules end equal to the feed", () => {
  let seed = 42;
  const chance = (below: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % below;
  for (let run = 0; run < 200; run += 1) {
    const truth = new Map<string, FileEntry>();
    const copy = new Mirror();
    let revision = 0;
    copy.beginPull();
    copy.page(page({ epoch: 1, revision: 0 }));
    for (let step = 0; step < 40; step += 1) {
      revision += 1;
      const id = `f${chance(6)}`;
      const adds = chance(2) === 0;
      if (adds) truth.set(id, file(ANA, id));
      else truth.delete(id);
      const change: FeedChange = adds
        ? added(revision, id, 1)
        : {
            opcode: "FILE_REMOVED",
            data: { public_id: ANA, file_ids: [id], epoch: 1, revision, audience: "all" },
          };
      if (chance(5) === 0) continue;
      if (copy.hear(change).gap) {
        copy.beginPull();
        copy.page(page({ epoch: 1, revision, files: [...truth.values()] }));
      }
      expect(ids(copy)).toEqual([...truth.keys()].sort());
    }
  }
});
