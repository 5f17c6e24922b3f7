/** Converts text frames to messages and back. Knows opcodes, not their meaning. */
import { MAX_FRAME_BYTES } from "./limits";
import type {
  ConsoleToMaster,
  DeviceToRelay,
  Incoming,
  MasterToConsole,
  RelayToDevice,
} from "./wire";

/** The opcodes that a page may receive. As a record, so that the compiler names a missing one. */
const HEARD: Record<(RelayToDevice | MasterToConsole)["opcode"], true> = {
  ADD_FILES_ACK: true,
  APPROVAL_CHALLENGE: true,
  APPROVAL_CLOSED: true,
  APPROVAL_OPEN: true,
  APPROVAL_RESTART: true,
  CHALLENGE: true,
  CHUNK_FAILED: true,
  CHUNK_READY: true,
  CLIENT_APPROVED: true,
  CLIENT_DISCONNECTED: true,
  CLIENT_DIS_APPROVED: true,
  CLIENT_RECONNECTED: true,
  CLIENT_REGISTER_ACK: true,
  CLIENT_UPDATED: true,
  CONSOLE_REGISTER_ACK: true,
  FEED_DIRTY: true,
  FEED_PAGE: true,
  FILES_ADDED: true,
  FILES_UPDATED: true,
  FILES_WITHDRAWN: true,
  FILE_CHANGED: true,
  FILE_REMOVED: true,
  FORGET_CLIENT_ACK: true,
  HUB_READY: true,
  JOIN_AT: true,
  LINK_DROPPED: true,
  LINK_MADE: true,
  LINKS_PAGE: true,
  KNOCKS: true,
  MEMBERSHIP: true,
  PONG: true,
  PRESENCE: true,
  REFUSED: true,
  RELAY_STATE: true,
  DOOR: true,
  PROBLEMS: true,
  INVITATION: true,
  REMOVE_FILE_ACK: true,
  REQUEST_FAILED: true,
  SERVER_NOT_READY: true,
  TRANSFER_PROGRESS: true,
  UPDATE_NAME_ACK: true,
  UPLOAD_CANCELLED: true,
  UPLOAD_CHUNK_REQUEST: true,
};

export type Decoded<Message> =
  | { kind: "message"; message: Incoming<Message> }
  | { kind: "unknown"; opcode: string }
  | { kind: "invalid"; why: string };

/** Decodes a frame: a known message, one of a newer hub, or nonsense. Never throws. */
export function decode<Message extends RelayToDevice | MasterToConsole>(
  frame: unknown,
): Decoded<Message> {
  if (typeof frame !== "string") return { kind: "invalid", why: "not a text frame" };
  if (frame.length > MAX_FRAME_BYTES) return { kind: "invalid", why: "too large" };
  let parsed: unknown;
  try {
    parsed = JSON.parse(frame);
  } catch {
    return { kind: "invalid", why: "not JSON" };
  }
  if (!isObject(parsed) || typeof parsed.opcode !== "string")
    return { kind: "invalid", why: "no opcode" };
  if (!Object.hasOwn(HEARD, parsed.opcode)) return { kind: "unknown", opcode: parsed.opcode };
  if (!isObject(parsed.data)) return { kind: "invalid", why: `${parsed.opcode} without data` };
  if (parsed.ref !== undefined && typeof parsed.ref !== "string")
    return { kind: "invalid", why: "ref is no text" };
  return { kind: "message", message: parsed as unknown as Incoming<Message> };
}

export function encode(message: DeviceToRelay | ConsoleToMaster, ref?: string): string {
  return JSON.stringify(ref === undefined ? message : { ...message, ref });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
