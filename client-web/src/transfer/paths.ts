/** Applies the wire's rules for paths before anything is announced. */
import { MAX_PATH_BYTES, MAX_SEGMENTS, MAX_SEGMENT_BYTES } from "../protocol/limits";

const utf8 = new TextEncoder();
const text = new TextDecoder();

/**
 * Returns the path for the wire, or null if there is none. Replaces odd characters and keeps the
 * structure.
 */
export function travelPath(raw: string): string | null {
  // Lone surrogates do not survive UTF-8. Encoding turns them into U+FFFD.
  const wellFormed = text.decode(utf8.encode(raw));
  const segments = wellFormed.split("/").filter((segment) => segment !== "" && segment !== ".");
  const clean = segments.map((segment) => segment.replace(/[\p{Cc}\\]/gu, "_"));
  if (clean.length === 0 || clean.length > MAX_SEGMENTS || clean.includes("..")) return null;
  if (clean.some((segment) => utf8.encode(segment).length > MAX_SEGMENT_BYTES)) return null;
  const path = clean.join("/");
  return utf8.encode(path).length > MAX_PATH_BYTES ? null : path;
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Numbers a path: "a/b.txt" and 2 give "a/b (2).txt". */
export function numbered(path: string, count: number): string {
  const name = nameOf(path);
  const dot = name.lastIndexOf(".");
  const cut = path.length - (dot > 0 ? name.length - dot : 0);
  return `${path.slice(0, cut)} (${count})${path.slice(cut)}`;
}
