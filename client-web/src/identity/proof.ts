/** Everything computed at the door: ids, commitments, codes, the two signatures. Pure, checked against the golden vectors. */
import { ed25519 } from "@noble/curves/ed25519.js";
import { blake3 } from "@noble/hashes/blake3.js";
import { fromHex, toHex, uuidOf } from "./bytes";

const utf8 = new TextEncoder();
const lines = (...texts: string[]) => utf8.encode(texts.join("\n"));

/** Pages cannot see the certificate, so their channel is zeros. */
export const NO_CHANNEL = "0".repeat(64);

export interface Keys {
  publicKey: string;
  publicId: string;
  /** A secret of this device that its file ids are derived from. */
  fileKey: Uint8Array;
  /** At once where the page itself signs, later where the browser does. */
  sign(text: string): string | Promise<string>;
}

/** The device's key as bytes: where the browser keeps none for a page (plain http, and older engines). */
export function keysFrom(seed: Uint8Array): Keys & { sign(text: string): string } {
  const publicKey = toHex(ed25519.getPublicKey(seed));
  return {
    publicKey,
    publicId: publicIdOf(publicKey),
    fileKey: seed,
    sign: (text) => sign(seed, text),
  };
}

/** A key that the browser keeps and shows to nobody, script of this page included. */
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

/** Null where the context is not secure or the engine knows no Ed25519. */
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

/** What people compare: the first 16 bytes of the key's hash. */
export function fingerprintOf(publicKey: string): string {
  return toHex(blake3(fromHex(publicKey)).slice(0, 16));
}

/** What makes one version of one file: the same again is the same file, in whatever tab of this browser it is shared. */
export type Version = { path: string; size: number; modified_ms: number; kind: string };

/** Names versions so that nobody without this device's key can tell or guess what they name. */
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

/** The master's commitment, made before the device reveals. */
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

/** A link that this device drew, with what the hub learns of it: hash and binding. */
export interface DrawnLink {
  /** Opens it; never sent before it is used. */
  key: string;
  hash: string;
  /** The seed, hidden behind the key: shows whoever knows the key that its maker made it. */
  binding: string;
}

/** Derives a link from 32 random bytes. Nobody else can bind the same key to another device. */
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

/** What stands behind the address of an invited device: `#i=`, beside the hub's key. */
export function invitationIn(hash: string): Invitation | null {
  const [, id, secret] = /\bi=(\w{16})(\w{32})\b/.exec(hash) ?? [];
  return id && secret ? { id, secret } : null;
}

/** That this device holds the secret; good for one knock only, and says nothing of the secret itself. */
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
  /** The X25519 keys that both sides made for this connection. */
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

/** Strict by RFC 8032; anything malformed is simply not a signature. */
export function verifies(publicKey: string, text: string, signature: string): boolean {
  try {
    return ed25519.verify(fromHex(signature), utf8.encode(text), fromHex(publicKey), {
      zip215: false,
    });
  } catch {
    return false;
  }
}

/** The text that both sides sign, each behind its role. */
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
