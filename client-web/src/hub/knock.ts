/** The knocking device's half of the code: one promise, one challenge. Pure. */
import { type Random, toHex } from "../identity/bytes";
import { codeOf, commitOf, requestIdOf } from "../identity/proof";

export interface Knock {
  publicKey: string;
  hubKey: string;
  name: string;
  relayNonce: string;
  reveal: string;
  commit: string;
  /** The digits, once this promise was revealed. A revealed promise answers no second challenge. */
  code: string | null;
}

export function newKnock(who: Pick<Knock, "publicKey" | "hubKey" | "name">, relayNonce: string, random: Random): Knock {
  const reveal = toHex(random(32));
  return { ...who, relayNonce, reveal, commit: commitOf(who.publicKey, reveal), code: null };
}

export function requestOf(knock: Knock): string {
  return requestIdOf(knock.publicKey, knock.commit, knock.relayNonce, knock.name);
}

/** The knock with its digits, or null for a challenge that is not an answer to this very promise. */
export function answerChallenge(knock: Knock, requestId: string, masterNonce: string): Knock | null {
  if (knock.code !== null || requestId !== requestOf(knock)) return null;
  return { ...knock, code: codeOf(knock.hubKey, knock.publicKey, requestId, knock.reveal, masterNonce) };
}

/** A new promise under the relay's new nonce, or null if another request was meant. */
export function restart(knock: Knock, requestId: string, relayNonce: string, random: Random): Knock | null {
  if (requestId !== requestOf(knock)) return null;
  return newKnock(knock, relayNonce, random);
}
