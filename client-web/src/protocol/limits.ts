/** The bounds of the wire that a page has to respect. The Rust side holds the whole list, with reasons. */
export const PROTOCOL_VERSION = 2;
export const SUBPROTOCOL = "lanyard.v2";
/** Offered too, so that a hub that went back to version 1 answers: this page hears that it is another and loads its own. */
export const OLD_SUBPROTOCOL = "lanyard.v1";
export const MAX_FRAME_BYTES = 256 * 1024;
export const MAX_FILES_A_MESSAGE = 512;
export const MAX_LIST_BYTES = 192 * 1024;
export const MAX_FILE_BYTES = 2 ** 40;
export const MAX_FILES_A_DEVICE = 100_000;
export const MAX_NAME_BYTES = 255;
/** What fits a screen; the wire would take more. */
export const MAX_NAME_SHOWN = 40;
export const MAX_LABEL_BYTES = 255;
export const MAX_PATH_BYTES = 4_096;
export const MAX_SEGMENT_BYTES = 255;
export const MAX_SEGMENTS = 64;
export const MAX_LINK_FILES = 10_000;
/** A master opens a reveal within this. */
export const OPENING_TIMEOUT_MS = 10_000;
/** Reveals that nobody opened, and reveals in all, until a person asks for more. */
export const MAX_UNOPENED_REVEALS = 3;
export const MAX_REVEALS = 32;
export const REQUEST_TIMEOUT_MS = 10_000;
/** On HTTP/1.1 an origin has six connections: these two leave one for the page. */
export const MAX_UPLOADS = 3;
export const MAX_DOWNLOADS = 2;

/** The smallest g in 18…24 with size ≤ 2^(g+16). */
export function groupLog(size: number): number {
  let log = 18;
  while (log < 24 && size > 2 ** (log + 16)) log += 1;
  return log;
}
