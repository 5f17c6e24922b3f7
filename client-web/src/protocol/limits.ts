/** The bounds of the wire, generated from Rust, and beside them what only a page has. */
import { MAX_GROUPS, MAX_GROUP_LOG, MIN_GROUP_LOG } from "./generated/limits";

export * from "./generated/limits";

/** Offered too, so that a hub that went back to version 1 answers: this page hears that it is another and loads its own. */
export const OLD_SUBPROTOCOL = "lanyard.v1";
/** What fits a screen; the wire would take more. */
export const MAX_NAME_SHOWN = 40;
/** On HTTP/1.1 an origin has six connections: these two leave one for the page. */
export const MAX_UPLOADS = 3;
export const MAX_DOWNLOADS = 2;

/** Returns the smallest group size of which a file has no more than the most groups. */
export function groupLog(size: number): number {
  let log = MIN_GROUP_LOG;
  while (log < MAX_GROUP_LOG && size > 2 ** log * MAX_GROUPS) log += 1;
  return log;
}
