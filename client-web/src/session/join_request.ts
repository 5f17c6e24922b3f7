/** The knocking device's half of the code: one promise, one challenge, one opening. Pure. */
import { type Random, toHex } from "../identity/bytes";
import { codeOf, commitOf, masterCommitOf, requestIdOf } from "../identity/proof";

/** How far it has come. A promise that was revealed, or told to wait, answers no challenge any more. */
export type Stage =
  | { at: "committed" }
  /** The hub knows the digits now, and this device does not until the hub opens what it had promised. */
  | { at: "revealed"; masterCommit: string; since: number }
  | { at: "opened"; code: string }
  /** The host lets nobody in at the moment. */
  | { at: "closed" };

export interface Knock {
  publicKey: string;
  hubKey: string;
  name: string;
  relayNonce: string;
  reveal: string;
  commit: string;
  stage: Stage;
}

export function newKnock(who: Pick<Knock, "publicKey" | "hubKey" | "name">, relayNonce: string, random: Random): Knock {
  const reveal = toHex(random(32));
  const { publicKey, hubKey, name } = who;
  return { publicKey, hubKey, name, relayNonce, reveal, commit: commitOf(publicKey, reveal), stage: { at: "committed" } };
}

export function requestOf(knock: Knock): string {
  return requestIdOf(knock.publicKey, knock.commit, knock.relayNonce, knock.name);
}

/** The knock as it is once it was revealed, or null for a challenge that is not an answer to this very promise. */
export function answerChallenge(knock: Knock, requestId: string, masterCommit: string, since: number): Knock | null {
  if (knock.stage.at !== "committed" || requestId !== requestOf(knock)) return null;
  return { ...knock, stage: { at: "revealed", masterCommit, since } };
}

/** The knock with its digits, or null for anything but what the master had promised. */
export function open(knock: Knock, requestId: string, masterNonce: string): Knock | null {
  const { stage, hubKey, publicKey, reveal } = knock;
  if (stage.at !== "revealed" || requestId !== requestOf(knock)) return null;
  if (masterCommitOf(hubKey, requestId, masterNonce) !== stage.masterCommit) return null;
  return { ...knock, stage: { at: "opened", code: codeOf(hubKey, publicKey, requestId, reveal, masterNonce) } };
}

/** A new promise under the relay's new nonce, or null if another request was meant. */
export function restart(knock: Knock, requestId: string, relayNonce: string, random: Random): Knock | null {
  if (requestId !== requestOf(knock)) return null;
  return newKnock(knock, relayNonce, random);
}

export function codeIn(knock: Knock | null): string | null {
  return knock?.stage.at === "opened" ? knock.stage.code : null;
}
