// Promise: a body has exactly its run's groups, at most three uploads run, and a failed body is
// told apart from a changed file.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Signer, macOf } from "../identity/signer";
import type { GroupSpan } from "../protocol/wire";
import { type Held, Uploads, bodyOf, whyUnreadable } from "./upload";

const GROUP = 2 ** 18;
const bytes = new Uint8Array(GROUP * 2 + 5).map((_, at) => at % 251);
const big = new File([bytes], "big.bin", { lastModified: 1_000 });
const small = new File(["hello"], "small.txt", { lastModified: 2_000 });
const held = new Map<string, Held>([
  ["big", { file: big, size: big.size, modified_ms: 1_000 }],
  ["small", { file: small, size: 5, modified_ms: 2_000 }],
]);

describe("a body", () => {
  test("is one slice of a file, whose last group is short", async () => {
    const body = bodyOf({ pieces: [["big", 1, 2]], length: GROUP + 5 }, (id) => held.get(id));
    expect(new Uint8Array(await body.arrayBuffer())).toEqual(bytes.slice(GROUP));
  });

  test("is the slices of several files in order", async () => {
    const body = bodyOf(
      {
        pieces: [
          ["small", 0, 1],
          ["big", 2, 1],
        ],
        length: 10,
      },
      (id) => held.get(id),
    );
    expect(new Uint8Array(await body.arrayBuffer())).toEqual(
      new Uint8Array([...new TextEncoder().encode("hello"), ...bytes.slice(2 * GROUP)]),
    );
  });

  test.each<[string, GroupSpan[], number, string]>([
    ["a file whose handle went with a reload", [["gone", 0, 1]], 5, "BUSY"],
    ["a length that is not ours", [["small", 0, 1]], 6, "FILE_CHANGED"],
  ])("is refused for %s", (_, pieces, length, code) => {
    expect(() => bodyOf({ pieces, length }, (id) => held.get(id))).toThrow(code);
  });

  test("is refused for a file that differs from the list", () => {
    const listed: Held = { file: small, size: 5, modified_ms: 1 };
    expect(() => bodyOf({ pieces: [["small", 0, 1]], length: 5 }, () => listed)).toThrow(
      "FILE_CHANGED",
    );
  });
});

const KEY = new Uint8Array(32).fill(7);

describe("uploading", () => {
  let puts: { url: string; init: RequestInit; finish(): void; fail(): void }[];
  const said: unknown[] = [];
  const broken: unknown[] = [];
  let owed = 0;
  let uploads: Uploads;
  let signer: Signer;
  const ask = (ticket: string, pieces: GroupSpan[] = [["small", 0, 1]], length = 5) =>
    uploads.request({ ticket, public_id: "me", pieces, what: "bytes", length });

  beforeEach(() => {
    puts = [];
    signer = new Signer("5e".repeat(16), KEY);
    said.length = broken.length = 0;
    uploads = new Uploads({
      held: (id) => held.get(id),
      isGone: () => false,
      signer: () => signer,
      unavailable: (answer) => said.push(answer),
      broken: (...what) => broken.push(what),
      owes: (count) => (owed = count),
      put: (url, init) =>
        new Promise((resolve, reject) => {
          init.signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
          puts.push({
            url,
            init,
            finish: () => resolve(new Response(null, { status: 204 })),
            fail: () => reject(new TypeError("Failed to fetch")),
          });
        }),
    });
  });
  afterEach(() => vi.restoreAllMocks());

  test("carries its own proof and no other header of the page", () => {
    ask("t1");
    ask("t2");
    for (const [at, ticket] of ["t1", "t2"].entries()) {
      const headers = {
        Authorization: `Lanyard ${"5e".repeat(16)}.${at + 1}.${macOf(KEY, "PUT", `/chunks/${ticket}`, at + 1)}`,
      };
      expect(puts[at]).toMatchObject({
        url: `/chunks/${ticket}`,
        init: { method: "PUT", headers },
      });
      expect(Object.keys(puts[at]?.init.headers ?? {})).toEqual(["Authorization"]);
    }
  });

  test("a request that comes twice is one body, whether it runs or waits", async () => {
    for (const ticket of ["t1", "t1", "t2", "t3", "t4", "t4"]) ask(ticket);
    expect([puts.length, owed]).toEqual([3, 4]);
    puts[0]!.finish();
    await vi.waitFor(() =>
      expect(puts.map((put) => put.url)).toEqual(
        ["t1", "t2", "t3", "t4"].map((ticket) => `/chunks/${ticket}`),
      ),
    );
  });

  test("three uploads run at once, and the fourth after one ends", async () => {
    for (const ticket of ["1", "2", "3", "4"]) ask(ticket);
    expect([puts.length, owed]).toEqual([3, 4]);
    puts[0]?.finish();
    await vi.waitFor(() => expect(puts.map(({ url }) => url).at(-1)).toBe("/chunks/4"));
  });

  test("a cancelled upload is aborted or never begun, and reports nothing", async () => {
    for (const ticket of ["1", "2", "3", "4"]) ask(ticket);
    uploads.cancel("4");
    uploads.cancel("1");
    await vi.waitFor(() => expect(owed).toBe(2));
    expect(puts[0]?.init.signal?.aborted).toBe(true);
    expect(said).toEqual([]);
  });

  test("requests for hashes are answered as unavailable", () => {
    uploads.request({
      ticket: "v",
      public_id: "me",
      pieces: [["small", 0, 1]],
      what: "hashes",
      length: 32,
    });
    expect(said).toEqual([{ ticket: "v", code: "NO_HASHES" }]);
  });

  test("a lost network does not take the file off the list", async () => {
    ask("t");
    puts[0]?.fail();
    await vi.waitFor(() => expect(owed).toBe(0));
    expect([said, broken]).toEqual([[], []]);
  });

  test.each([
    ["NotReadableError", "FILE_CHANGED"],
    ["NotFoundError", "FILE_GONE"],
  ])("a file that reads as %s is %s", async (name, code) => {
    const unreadable = { arrayBuffer: () => Promise.reject(new DOMException("", name)), size: 5 };
    const slice = vi.spyOn(small, "slice").mockReturnValue(unreadable as unknown as Blob);
    ask("t");
    puts[0]?.fail();
    await vi.waitFor(() => expect(said).toEqual([{ ticket: "t", code, file_id: "small" }]));
    expect(broken).toEqual([["small", code]]);
    slice.mockRestore();
    expect(await whyUnreadable(small)).toBeNull();
  });

  test("a request for a file without a handle is deferred, and the file stays listed", () => {
    ask("t", [["gone", 0, 1]]);
    return vi.waitFor(() => {
      expect(said).toEqual([{ ticket: "t", code: "BUSY", file_id: "gone" }]);
      expect(broken).toEqual([]);
    });
  });
});
