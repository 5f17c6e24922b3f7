/** Which entries of the hub's list are read (PROTOCOL.md 5.2). */
import { MAX_FILE_BYTES, MAX_SEGMENT_BYTES, groupLog } from "../protocol/limits";
import type { FileEntry } from "../protocol/wire";
import { travelPath } from "../transfer/paths";

/** Whether its path may travel, and its size and group size are such as may be. */
export function canBe({ path, size, group_log }: FileEntry): boolean {
  if (!Number.isInteger(size) || size < 0 || size > MAX_FILE_BYTES || group_log !== groupLog(size))
    return false;
  return typeof path === "string" && mayTravel(path);
}

/** No letter has more bytes than this, so a path this short breaks no bound. */
const SHORT = Math.floor(MAX_SEGMENT_BYTES / 3);
const ODD = /[\p{Cc}\p{Cs}\\]|^$|^\/|\/$|\/\/|(?:^|\/)\.{1,2}(?:\/|$)/u;

/** A list may have 100,000 paths: nearly all of them are short, and looked through once. */
function mayTravel(path: string): boolean {
  return path.length <= SHORT ? !ODD.test(path) : travelPath(path) === path;
}
