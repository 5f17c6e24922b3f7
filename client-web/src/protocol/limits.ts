/** Limits of the wire, generated from Rust, and limits of the page itself. */
import { MAX_GROUPS, MAX_GROUP_LOG, MIN_GROUP_LOG } from "./generated/limits";

export * from "./generated/limits";

/**
 * Offered as well, so that a hub of version 1 answers. The page then knows the version and loads
 * that hub's page.
 */
export const OLD_SUBPROTOCOL = "lanyard.v1";
/** The longest name that fits a screen. The wire allows more. */
export const MAX_NAME_SHOWN = 40;
/**
 * Browsers open six connections per origin on HTTP/1.1. These two limits leave one for the page.
 */
export const MAX_UPLOADS = 3;
export const MAX_DOWNLOADS = 2;

/** Returns the smallest group size with which the file has at most MAX_GROUPS groups. */
export function groupLog(size: number): number {
  let log = MIN_GROUP_LOG;
  while (log < MAX_GROUP_LOG && size > 2 ** log * MAX_GROUPS) log += 1;
  return log;
}
