/**
 * Computes ids, commitments, codes and the two signatures of a session. Pure, checked against the
 * golden vectors.
 */
import { ed25519 } from "@noble/curves/ed25519.js";
import { blake3 } from "@noble/hashes/blake3.js";
import { fromHex, toHex, uuidOf } from "./bytes";

const utf8 = new TextEncoder();
const lines = (...texts: string[]) => utf8.encode(texts.join("\n"));

/** The channel of a page, which cannot see the certificate. */
export const NO_CHANNEL = "0".repeat(64);

export interface Keys {
  publicKey: string;
  publicId: string;
  /** The device's secret from which its file ids are derived. */
  fileKey: Uint8Array;
  /** Signs at once where the page holds the key, and asynchronously where the browser does. */
  sign(text: string): string | Promise<string>;
}

/**
 * Returns the device's keys from bytes, for browsers that keep no key for a page (plain http, and
 * older engines).
 */
export function keysFrom(seed: Uint8Array): Keys & { sign(text: string): string } {
  const publicKey = toHex(ed25519.getPublicKey(seed));
  return {
    publicKey,
    publicId: publicIdOf(publicKey),
    fileKey: seed,
    sign: (text) => sign(seed, text),
  };
}

/** Creates a key that the browser keeps and no script can read. */
export interface KeptPair {
  privateKey: CryptoKey;
  publicKey: string;
  fileKey: Uint8Array;
}

export function keysOf({ privateKey, publicKey, fileKey }: KeptPair): Keys {
  const signed = async (text: string) =>
    toHex(new Uint8Array(await crypto.subtle.sign("Ed25519", privateKey, utf8.encode(text))));
  return { publicKey, publicId: publicIdOf(publicKey), fileKey, sign: signed };
}

/** Returns null if the context is not secure or the engine does not support Ed25519. */
export async function newPair(fileKey: Uint8Array): Promise<KeptPair | null> {
  try {
    const pair = (await crypto.subtle.generateKey("Ed25519", false, [
      "sign",
      "verify",
    ])) as CryptoKeyPair;
    const publicKey = toHex(new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)));
    return { privateKey: pair.privateKey, publicKey, fileKey };
  } catch {
    return null;
  }
}

export function publicIdOf(publicKey: string): string {
  return uuidOf(blake3(fromHex(publicKey)), 8);
}

/** Returns the fingerprint that people compare: the first 16 bytes of the key's hash. */
export function fingerprintOf(publicKey: string): string {
  return toHex(blake3(fromHex(publicKey)).slice(0, 16));
}

/**
 * Identifies one version of one file. Equal versions are the same file in every tab of this
 * browser.
 */
export type Version = { path: string; size: number; modified_ms: number; kind: string };

/**
 * Derives a file id from a version. Without this device's key nobody can guess the version from
 * the id.
 */
export function fileIds(seed: Uint8Array): (version: Version) => string {
  const key = blake3(seed, { context: utf8.encode("lanyard/1 file ids of a page") });
  return ({ path, size, modified_ms, kind }) =>
    uuidOf(blake3(lines(path, String(size), String(modified_ms), kind), { key }), 8);
}

export function commitOf(publicKey: string, reveal: string): string {
  return toHex(blake3(lines("lanyard/2 commit", publicKey, reveal)));
}

export function requestIdOf(
  publicKey: string,
  commit: string,
  relayNonce: string,
  name: string,
): string {
  return toHex(
    blake3(lines("lanyard/2 request", publicKey, commit, relayNonce, name)).slice(0, 16),
  );
}

/** Returns the master's commitment, which is made before the device reveals. */
export function masterCommitOf(hubKey: string, requestId: string, masterNonce: string): string {
  return toHex(blake3(lines("lanyard/2 master commit", hubKey, requestId, masterNonce)));
}

export function codeOf(
  hubKey: string,
  publicKey: string,
  requestId: string,
  reveal: string,
  masterNonce: string,
): string {
  const digest = blake3(lines("lanyard/2 code", hubKey, publicKey, requestId, reveal, masterNonce));
  const number = new DataView(digest.buffer, digest.byteOffset, 8).getBigUint64(0);
  return (number % 1_000_000n).toString().padStart(6, "0");
}

/** A link that this device drew. The hub learns its hash and binding. */
export interface DrawnLink {
  /** The key that opens the link. Not sent before the link is used. */
  key: string;
  hash: string;
  /** The encrypted seed. To those who know the key it proves that the link's maker created it. */
  binding: string;
}

/** Derives a link from 32 random bytes. Nobody can bind the same key to another device. */
export function drawnLink(seed: Uint8Array, publicId: string): DrawnLink {
  const key = toHex(blake3(lines("lanyard/2 link key", toHex(seed), publicId)).slice(0, 16));
  const mask = blake3(lines("lanyard/2 link binding", key));
  const binding = toHex(seed.map((byte, at) => byte ^ (mask[at] ?? 0)));
  return { key, hash: toHex(blake3(utf8.encode(key))), binding };
}

export interface Invitation {
  id: string;
  secret: string;
}

/** The invitation in an address: `#i=`, beside the hub's key. */
export function invitationIn(hash: string): Invitation | null {
  const [, id, secret] = /\bi=(\w{16})(\w{32})\b/.exec(hash) ?? [];
  return id && secret ? { id, secret } : null;
}

/**
 * Proves that this device holds the invitation's secret. The proof is valid for one join request
 * and does not reveal the secret.
 */
export function invitationProof(secret: string, requestId: string): string {
  const key = blake3(fromHex(secret), { context: utf8.encode("lanyard/2 invitation") });
  return toHex(blake3(utf8.encode(requestId), { key }));
}

export interface Handshake {
  bootId: string;
  relayNonce: string;
  deviceNonce: string;
  hubKey: string;
  deviceKey: string;
  authority: string;
  channel: string;
  /** The X25519 keys that both sides created for this connection. */
  relayEphemeral: string;
  deviceEphemeral: string;
}

export function deviceText(h: Handshake): string {
  return ["lanyard/2 device", ...signed(h)].join("\n");
}

export function hubText(h: Handshake, publicId: string): string {
  return ["lanyard/2 hub", ...signed(h), publicId].join("\n");
}

export function sign(seed: Uint8Array, text: string): string {
  return toHex(ed25519.sign(utf8.encode(text), seed));
}

/** Verifies strictly by RFC 8032. Malformed input counts as a wrong signature. */
export function verifies(publicKey: string, text: string, signature: string): boolean {
  try {
    return ed25519.verify(fromHex(signature), utf8.encode(text), fromHex(publicKey), {
      zip215: false,
    });
  } catch {
    return false;
  }
}

/** Returns the text that both sides sign, each with its role in front. */
function signed(h: Handshake): string[] {
  return [
    h.bootId,
    h.relayNonce,
    h.deviceNonce,
    h.hubKey,
    h.deviceKey,
    h.authority,
    h.channel,
    h.relayEphemeral,
    h.deviceEphemeral,
  ];
}
