// Promise: a link's key is drawn here and never sent. The list is the hub's; the keys to copy are
// this browser's.
import { expect, test } from "vitest";
import { drawnLink } from "../identity/proof";
import type { LinkListed } from "../protocol/generated/LinkListed";
import type { DeviceToRelay, Incoming, RelayToDevice } from "../protocol/wire";
import { Links } from "./links";

type Heard = Incoming<RelayToDevice>;

function listed(link_hash: string, more: Partial<LinkListed> = {}): LinkListed {
  return {
    link_hash,
    public_id: "me",
    name: "a b.zip",
    files: 0,
    made_ms: 1,
    expires_ms: 1_000,
    ...more,
  };
}

function bench(answer: (message: DeviceToRelay) => Heard | null) {
  const sent: DeviceToRelay[] = [];
  const stored = new Map<string, string>();
  let n = 0;
  const links = new Links({
    now: () => 5,
    random: (count) => new Uint8Array(count).fill((n += 1)),
    me: "me",
    ask: (message, answered) => {
      sent.push(message);
      const said = answer(message);
      if (said) answered(said);
      return said !== null;
    },
    changed: () => undefined,
    storage: {
      getItem: (key) => stored.get(key) ?? null,
      setItem: (key, value) => void stored.set(key, value),
    },
  });
  return { links, sent, stored };
}

const makes = (message: DeviceToRelay): Heard => {
  if (message.opcode === "LINK_REQUEST")
    return { opcode: "LINK_MADE", data: { link: listed(message.data.link_hash) } };
  throw new Error(message.opcode);
};

test("messages name a link by its hash and never hold its key", async () => {
  const { links, sent } = bench(makes);
  const made = await links.make(
    { files: [{ public_id: "o", file_id: "f" }], validMs: 60, uses: 2 },
    "given",
  );
  const key = made.url.split("/")[2] ?? "";
  expect(made.url).toBe(`/d/${key}/a%20b.zip`);
  expect(key).toMatch(/^[0-9a-f]{32}$/);
  const drawn = drawnLink(new Uint8Array(32).fill(1), "me");
  expect([key, made.hash]).toEqual([drawn.key, drawn.hash]);
  expect(sent[0]).toEqual({
    opcode: "LINK_REQUEST",
    data: {
      link_hash: made.hash,
      binding: drawn.binding,
      files: [{ public_id: "o", file_id: "f" }],
      valid_ms: 60,
      uses: 2,
    },
  });
  expect(JSON.stringify(sent)).not.toContain(key);
  expect(JSON.stringify(sent), "nor the seed that it is made of").not.toContain("01".repeat(32));
});

test("ten thousand files are one link in several requests, a folder one request", async () => {
  const { links, sent } = bench(makes);
  const files = Array.from({ length: 10_000 }, (_, n) => ({
    public_id: "o".repeat(36),
    file_id: `${n}`.padStart(36, "0"),
  }));
  await links.make({ files, name: "all.zip" }, "given");
  expect(sent.length).toBe(20);
  expect(
    new Set(sent.map((message) => message.opcode === "LINK_REQUEST" && message.data.link_hash))
      .size,
  ).toBe(1);
  expect(
    new Set(sent.map((message) => message.opcode === "LINK_REQUEST" && message.data.binding)).size,
  ).toBe(1);
  expect(Math.max(...sent.map((message) => JSON.stringify(message).length))).toBeLessThan(
    256 * 1024,
  );
  await links.make({ files, folder: { public_id: "o", path: "" } }, "given");
  expect(sent[20]).toMatchObject({ data: { folder: { public_id: "o", path: "" } } });
});

test("the list shows links to give away, and copies only those whose key is here", async () => {
  const known: LinkListed[] = [];
  const { links } = bench((message) => {
    if (message.opcode === "LINKS_PULL")
      return {
        opcode: "LINKS_PAGE",
        data: { links: [...known, listed("elsewhere", { made_ms: 9 })], last: true },
      };
    const said = makes(message);
    if (said.opcode === "LINK_MADE") known.push(said.data.link);
    return said;
  });
  const given = await links.make({ files: [{ public_id: "o", file_id: "f" }] }, "given");
  await links.make({ files: [{ public_id: "o", file_id: "f" }] }, "download");
  await links.load();
  expect(links.list.map(({ link_hash, url }) => [link_hash, url])).toEqual([
    ["elsewhere", null],
    [given.hash, given.url],
  ]);
  links.hear({ opcode: "LINK_DROPPED", data: { link_hash: given.hash, public_id: "me" } });
  links.hear({ opcode: "LINK_MADE", data: { link: listed("tab", { made_ms: 10, uses_left: 1 }) } });
  expect(links.list.map(({ link_hash }) => link_hash)).toEqual(["tab", "elsewhere"]);
});

test("dropping reports refusals, accepts links already gone, fails offline", async () => {
  const no = (code: "QUOTA" | "NOT_FOUND" | "SERVER_NOT_READY"): Heard => ({
    opcode: "REQUEST_FAILED",
    data: { code, message: "full" },
  });
  await expect(
    bench(() => no("QUOTA")).links.make({ files: [{ public_id: "o", file_id: "f" }] }, "given"),
  ).rejects.toMatchObject({ code: "QUOTA" });
  await expect(bench(() => no("NOT_FOUND")).links.drop("h")).resolves.toBeUndefined();
  await expect(bench(() => no("SERVER_NOT_READY")).links.drop("h")).rejects.toMatchObject({
    code: "SERVER_NOT_READY",
  });
  const away = bench(() => null).links;
  await away.load();
  expect(away.state).toBe("failed");
  const throws = bench(makes);
  throws.stored.set("lanyard.links", "{broken");
  await throws.links.make({ files: [{ public_id: "o", file_id: "f" }] }, "given");
  expect(throws.stored.get("lanyard.links")).toContain("/d/");
});
