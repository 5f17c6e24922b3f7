/** Keeps the digits typed for one join request. A renewed request starts with no digits. Pure. */
import type { JoinRequestInfo } from "../protocol/wire";

export interface Typing {
  request: string | null;
  digits: string;
  wrong: string | null;
}

export const NOTHING_TYPED: Typing = { request: null, digits: "", wrong: null };

export function typed(typing: Typing, text: string): Typing {
  return { ...typing, digits: text.replace(/\D/g, "").slice(0, 6), wrong: null };
}

/** Returns what remains of the typing after the list of join requests has changed. */
export function facing(
  typing: Typing,
  knock: JoinRequestInfo | undefined,
  lastDevice: string | null,
): Typing {
  if (!knock) return NOTHING_TYPED;
  if (typing.request === knock.request_id) return typing;
  const renewed = lastDevice === knock.public_id;
  return {
    request: knock.request_id,
    digits: "",
    wrong: renewed ? "The digits on their screen are new. Ask for them again." : null,
  };
}

export function refused(typing: Typing, code: string): Typing {
  if (code === "STALE_REQUEST")
    return {
      ...typing,
      digits: "",
      wrong: "They knocked again. Ask them to read the digits again.",
    };
  if (code !== "WRONG_CODE")
    return { ...typing, wrong: "The hub didn’t answer. Try again in a moment." };
  return {
    ...typing,
    digits: "",
    wrong: "That isn’t the code on their screen. Ask them to read it again.",
  };
}

/** Puts the remaining attempts into words, to be shown beside a wrong code. */
export function triesWords(left: number): string {
  if (left <= 0) return "They get new digits.";
  return left === 1 ? "One try is left." : `${left} tries are left.`;
}
