/**
 * Counts this browser's reveals at this door since a person last asked it to try. A false hub learns the digits before the page
 * does and could leave until they suit it, so it gets few reveals: whatever hub answered, in all tabs, over reloads.
 */
import { MAX_REVEALS, MAX_UNOPENED_REVEALS } from "../protocol/limits";

export interface Reveals {
  /** Those that no valid opening followed. No success makes up for one: a false hub could open some to be shown others. */
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

/** A person must ask for more. */
export function isSpent({ unopened, given }: Reveals): boolean {
  return unopened >= MAX_UNOPENED_REVEALS || given >= MAX_REVEALS;
}

/** Beside the key, for all tabs. Where nothing can be kept it counts for this page alone. */
export function revealBook(storage: Pick<Storage, "getItem" | "setItem">): RevealBook {
  let here = NONE;
  return {
    read: () => {
      try {
        const text = storage.getItem(NAME);
        if (text !== null) here = parsed(text);
      } catch {
        // Nothing is kept here.
      }
      return here;
    },
    write: (reveals) => {
      here = reveals;
      try {
        storage.setItem(NAME, JSON.stringify(reveals));
      } catch {
        // Nothing is kept here.
      }
    },
  };
}

/** A count that cannot be understood is a full one. */
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
