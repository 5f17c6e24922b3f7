/**
 * Remembers beside the key: the last membership, the last name, and the hub that let this browser
 * in.
 */

export type Door = "new" | "knocking" | "approved" | "refused";

export interface Remembered {
  door: Door;
  name: string | null;
  /** The hub's key at first approval, and its last name. */
  hubKey: string | null;
  hubName: string | null;
}

const NAME = "lanyard.device";
const EMPTY: Remembered = { door: "new", name: null, hubKey: null, hubName: null };

export function recall(storage: Pick<Storage, "getItem">): Remembered {
  try {
    const parsed: unknown = JSON.parse(storage.getItem(NAME) ?? "null");
    if (typeof parsed !== "object" || parsed === null) return EMPTY;
    const { door, name, hubKey, hubName } = parsed as Record<string, unknown>;
    return {
      door: door === "knocking" || door === "approved" || door === "refused" ? door : "new",
      name: text(name),
      hubKey: text(hubKey),
      hubName: text(hubName),
    };
  } catch {
    return EMPTY;
  }
}

export function remember(storage: Pick<Storage, "setItem">, what: Remembered): void {
  try {
    storage.setItem(NAME, JSON.stringify(what));
  } catch {
    // Without storage the page still works, and only forgets.
  }
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
