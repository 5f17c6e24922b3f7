/** Decides which entries of the hub's list are read (PROTOCOL.md 5.2). */
import { MAX_FILE_BYTES, MAX_SEGMENT_BYTES, groupLog } from "../protocol/limits";
import type { FileEntry } from "../protocol/wire";
import { travelPath } from "../transfer/paths";

/** Returns true if the entry's path, size and group size are within the bounds of the wire. */
export function canBe({ path, size, group_log }: FileEntry): boolean {
  if (!Number.isInteger(size) || size < 0 || size > MAX_FILE_BYTES || group_log !== groupLog(size))
    return false;
  return typeof path === "string" && mayTravel(path);
}

/** A UTF-16 unit takes at most three bytes in UTF-8, so a path this short cannot break a bound. */
const SHORT = Math.floor(MAX_SEGMENT_BYTES / 3);
const ODD = /[\p{Cc}\p{Cs}\\]|^$|^\/|\/$|\/\/|(?:^|\/)\.{1,2}(?:\/|$)/u;

/** Skips the full check for short paths: a list may have 100,000 of them. */
function mayTravel(path: string): boolean {
  return path.length <= SHORT ? !ODD.test(path) : travelPath(path) === path;
}
