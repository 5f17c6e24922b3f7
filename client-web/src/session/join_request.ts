/**
 * Computes the device's half of the six digits: one commitment, one challenge, one opening. Pure.
 */
import { type Random, toHex } from "../identity/bytes";
import { codeOf, commitOf, masterCommitOf, requestIdOf } from "../identity/proof";

/** The stage of a join request. Once revealed or closed, it does not answer another challenge. */
export type Stage =
  | { at: "committed" }
  /** The hub knows the digits. This device computes them once the hub opens its commitment. */
  | { at: "revealed"; masterCommit: string; since: number }
  | { at: "opened"; code: string }
  /** The host does not admit new devices at the moment. */
  | { at: "closed" };

export interface JoinRequest {
  publicKey: string;
  hubKey: string;
  name: string;
  relayNonce: string;
  reveal: string;
  commit: string;
  stage: Stage;
}

export function newJoinRequest(
  who: Pick<JoinRequest, "publicKey" | "hubKey" | "name">,
  relayNonce: string,
  random: Random,
): JoinRequest {
  const reveal = toHex(random(32));
  const { publicKey, hubKey, name } = who;
  return {
    publicKey,
    hubKey,
    name,
    relayNonce,
    reveal,
    commit: commitOf(publicKey, reveal),
    stage: { at: "committed" },
  };
}

export function requestOf(request: JoinRequest): string {
  return requestIdOf(request.publicKey, request.commit, request.relayNonce, request.name);
}

/** Returns the revealed join request, or null if the challenge does not answer this commitment. */
export function answerChallenge(
  request: JoinRequest,
  requestId: string,
  masterCommit: string,
  since: number,
): JoinRequest | null {
  if (request.stage.at !== "committed" || requestId !== requestOf(request)) return null;
  return { ...request, stage: { at: "revealed", masterCommit, since } };
}

/**
 * Returns the join request with its digits, or null if the nonce does not fit the master's
 * commitment.
 */
export function open(
  request: JoinRequest,
  requestId: string,
  masterNonce: string,
): JoinRequest | null {
  const { stage, hubKey, publicKey, reveal } = request;
  if (stage.at !== "revealed" || requestId !== requestOf(request)) return null;
  if (masterCommitOf(hubKey, requestId, masterNonce) !== stage.masterCommit) return null;
  return {
    ...request,
    stage: { at: "opened", code: codeOf(hubKey, publicKey, requestId, reveal, masterNonce) },
  };
}

/** Returns a new commitment under the relay's new nonce, or null if another request was meant. */
export function restart(
  request: JoinRequest,
  requestId: string,
  relayNonce: string,
  random: Random,
): JoinRequest | null {
  if (requestId !== requestOf(request)) return null;
  return newJoinRequest(request, relayNonce, random);
}

export function codeIn(request: JoinRequest | null): string | null {
  return request?.stage.at === "opened" ? request.stage.code : null;
}
