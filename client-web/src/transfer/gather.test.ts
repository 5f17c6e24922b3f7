// Promise: everything picked, dropped or pasted is found, and unreadable files are counted.
import { expect, test } from "vitest";
import { fromDrop, fromPaste, fromPicker } from "./gather";

type Tree = { [name: string]: Tree | "file" | "locked" };

function entryOf(path: string, node: Tree | "file" | "locked"): FileSystemEntry {
  const isFile = typeof node === "string";
  const children = isFile
    ? []
    : Object.entries(node).map(([name, child]) => entryOf(`${path}/${name}`, child));
  return {
    isFile,
    isDirectory: !isFile,
    fullPath: path,
    file: (ok: (file: File) => void, no: (error: Error) => void) =>
      node === "file" ? ok(new File(["x"], path)) : no(new Error("locked")),
    createReader: () => {
      let at = 0;
      return {
        readEntries: (ok: (entries: FileSystemEntry[]) => void) =>
          ok(children.slice(at, (at += 100))),
      };
    },
  } as unknown as FileSystemEntry;
}

function drop(...entries: FileSystemEntry[]): DataTransfer {
  let open = true;
  queueMicrotask(() => (open = false));
  const items = entries.map((entry) => ({
    kind: "file",
    webkitGetAsEntry: () => (open ? entry : null),
    getAsFile: () => null,
  }));
  return { items } as unknown as DataTransfer;
}

test("a dropped folder is walked whole, though readers hand out a hundred at a time", async () => {
  const many: Tree = Object.fromEntries(Array.from({ length: 250 }, (_, at) => [`f${at}`, "file"]));
  const found = await fromDrop(
    drop(
      entryOf("/Trip", { many, empty: {}, "a.jpg": "file", secret: "locked" }),
      entryOf("/b.txt", "file"),
    ),
    new AbortController().signal,
  );
  expect(found.picked).toHaveLength(252);
  expect(found.picked.map(({ path }) => path)).toContain("Trip/many/f249");
  expect(found.emptyFolders).toEqual(["Trip/empty"]);
  expect(found.unreadable).toEqual(["Trip/secret"]);
});

test("a walk ends with its signal", async () => {
  const gone = AbortSignal.abort();
  await expect(fromDrop(drop(entryOf("/a", "file")), gone)).rejects.toThrow();
});

test("a picked folder keeps its relative paths", () => {
  const file = new File(["x"], "a.jpg");
  Object.defineProperty(file, "webkitRelativePath", { value: "Trip/a.jpg" });
  expect(fromPicker([file, new File(["y"], "b.txt")]).picked.map(({ path }) => path)).toEqual([
    "Trip/a.jpg",
    "b.txt",
  ]);
});

test("a pasted screenshot is named by its time", () => {
  const files = [new File(["x"], "image.png"), new File(["y"], "plan.pdf")];
  const found = fromPaste({ files } as unknown as DataTransfer, new Date(2026, 1, 3, 14, 2));
  expect(found.picked.map(({ path }) => path)).toEqual(["Screenshot 14.02.png", "plan.pdf"]);
});
