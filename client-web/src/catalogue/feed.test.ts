// Promise: over one connection the list becomes whole, stays whole, and asks again whenever it is
// not.
import { beforeEach, describe, expect, test } from "vitest";
import { REQUEST_TIMEOUT_MS } from "../protocol/limits";
import type { FeedPage } from "../protocol/wire";
import { Feed } from "./feed";

let now = 0;
let asked: { epoch: number; since: number; cursor?: string }[] = [];
let complete = 0;
let feed: Feed;

const page = (more: Partial<FeedPage> = {}): FeedPage => ({
  mode: "SNAPSHOT",
  epoch: 1,
  revision: 5,
  clients: [],
  files: [],
  gone: [],
  last: true,
  ...more,
});
const hearPage = (data: FeedPage, ref?: string) => feed.hear({ opcode: "FEED_PAGE", data, ref });

beforeEach(() => {
  now = 0;
  asked = [];
  complete = 0;
  feed = new Feed(
    {
      pull: (ask) => {
        asked.push(ask);
        return `p${asked.length}`;
      },
      changed: () => undefined,
      left: () => undefined,
      complete: () => (complete += 1),
    },
    () => now,
  );
});

describe("the first page", () => {
  test("comes unasked, and the page asks for the next ones", () => {
    feed.expect();
    hearPage(page({ last: false, cursor: "two" }));
    expect(asked).toEqual([{ epoch: 0, since: 0, cursor: "two" }]);
    hearPage(page(), "p1");
    expect(complete).toBe(1);
  });

  test("is pulled when it does not come", () => {
    feed.expect();
    now = REQUEST_TIMEOUT_MS - 1;
    feed.tick();
    expect(asked).toEqual([]);
    now = REQUEST_TIMEOUT_MS;
    feed.tick();
    expect(asked).toEqual([{ epoch: 0, since: 0 }]);
  });
});

describe("afterwards", () => {
  beforeEach(() => {
    feed.expect();
    hearPage(page());
  });

  test("a gap, a dirty feed and a returned hub pull from the list's position", () => {
    feed.hear({
      opcode: "CLIENT_UPDATED",
      data: {
        client: { public_id: "a", name: "x", kind: "browser", platform: "" },
        epoch: 1,
        revision: 9,
        audience: "all",
      },
    });
    feed.hear({ opcode: "HUB_READY", data: { epoch: 1, revision: 9 } });
    expect(asked).toEqual(Array.from({ length: 2 }, () => ({ epoch: 1, since: 5 })));
    hearPage(page({ mode: "DELTA", revision: 9 }), "p1");
    expect(complete).toBe(1);
    hearPage(page({ mode: "DELTA", revision: 9 }), "p2");
    expect(complete).toBe(2);
    feed.hear({ opcode: "FEED_DIRTY", data: {} });
    expect(asked.slice(2)).toEqual([{ epoch: 1, since: 9 }]);
  });

  test("an unasked page for another position is ignored", () => {
    hearPage(
      page({
        mode: "DELTA",
        revision: 4,
        files: [
          {
            public_id: "a",
            instance: "i",
            file_id: "f",
            path: "p",
            size: 0,
            modified_ms: 0,
            media_type: "",
            group_log: 18,
          },
        ],
      }),
    );
    expect(feed.mirror.files.size).toBe(0);
  });

  test("a pull that the hub cannot answer is tried again later", () => {
    feed.pull();
    expect(
      feed.hear({
        opcode: "REQUEST_FAILED",
        data: { code: "SERVER_NOT_READY", message: "" },
        ref: "p1",
      }),
    ).toBe(true);
    now = 10_000;
    feed.tick();
    expect(asked).toHaveLength(2);
  });

  test("presence is whole first and then by changes, and ends with the connection", () => {
    feed.hear({ opcode: "PRESENCE", data: { online: ["a", "b"] } });
    feed.hear({ opcode: "CLIENT_DISCONNECTED", data: { public_id: "a" } });
    feed.hear({ opcode: "CLIENT_RECONNECTED", data: { public_id: "c" } });
    expect([...feed.online]).toEqual(["b", "c"]);
    feed.disconnected();
    expect(feed.online.size).toBe(0);
    expect(feed.mirror.loaded).toBe(true);
  });
});
