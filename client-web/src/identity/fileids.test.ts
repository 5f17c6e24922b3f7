import { expect, test } from "vitest";
import { fileIds } from "./proof";

const seed = (byte: number) => new Uint8Array(32).fill(byte);
const film = { path: "film.mov", size: 5, modified_ms: 7, kind: "file" };

test("each version has one file id in all tabs of a browser", () => {
  const ids = fileIds(seed(1));
  expect(ids(film)).toBe(fileIds(seed(1))(film));
  expect(ids(film)).toMatch(
    /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  const others = [
    { ...film, path: "b" },
    { ...film, size: 6 },
    { ...film, modified_ms: 8 },
    { ...film, kind: "folder" },
  ].map(ids);
  expect(new Set([ids(film), fileIds(seed(2))(film), ...others]).size).toBe(6);
});
