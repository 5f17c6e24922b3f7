/**
 * Counts this browser's reveals since a person last asked for a try. A false hub learns the digits
 * before the page does and could abort until they suit it. So reveals are few, counted for all
 * hubs, in all tabs and over reloads.
 */
import { MAX_REVEALS, MAX_UNOPENED_REVEALS } from "../protocol/limits";

export interface Reveals {
  /**
   * The reveals without a valid opening. A success does not reduce this count, since a false hub
   * could open some reveals to get others.
   */
  unopened: number;
  given: number;
}

export interface RevealBook {
  read(): Reveals;
  write(reveals: Reveals): void;
}

const NAME = "lanyard.reveals";
const NONE: Reveals = { unopened: 0, given: 0 };
const SPENT: Reveals = { unopened: MAX_UNOPENED_REVEALS, given: MAX_REVEALS };

/** Returns true if a person must ask for more reveals. */
export function isSpent({ unopened, given }: Reveals): boolean {
  return unopened >= MAX_UNOPENED_REVEALS || given >= MAX_REVEALS;
}

/**
 * Keeps the count beside the key, for all tabs. Without storage the count is for this page alone.
 */
export function revealBook(storage: Pick<Storage, "getItem" | "setItem">): RevealBook {
  let here = NONE;
  return {
    read: () => {
      try {
        const text = storage.getItem(NAME);
        if (text !== null) here = parsed(text);
      } catch {
        // Without storage the count in memory is used.
      }
      return here;
    },
    write: (reveals) => {
      here = reveals;
      try {
        storage.setItem(NAME, JSON.stringify(reveals));
      } catch {
        // Without storage the count in memory is used.
      }
    },
  };
}

/** Reads a count. An unreadable count is taken as full. */
function parsed(text: string): Reveals {
  try {
    const { unopened, given } = JSON.parse(text) as Partial<Record<"unopened" | "given", unknown>>;
    return isCount(unopened) && isCount(given) ? { unopened, given } : SPENT;
  } catch {
    return SPENT;
  }
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

export const give = (book: RevealBook): void => {
  const { unopened, given } = book.read();
  book.write({ unopened: unopened + 1, given: given + 1 });
};

export const opened = (book: RevealBook): void => {
  const { unopened, given } = book.read();
  book.write({ unopened: Math.max(0, unopened - 1), given });
};

export const beginAnew = (book: RevealBook): void => {
  if (book.read().given > 0) book.write(NONE);
};
