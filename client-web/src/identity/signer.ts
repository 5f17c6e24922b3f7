/**
 * The key of one session, which both sides agree on when this page registers and which is never sent, and the proof that a
 * request is of that session. Script of its own: WebCrypto is missing on plain http, where listeners are.
 */
import { x25519 } from "@noble/curves/ed25519.js";
import { blake3 } from "@noble/hashes/blake3.js";
import { fromHex, toHex } from "./bytes";

const utf8 = new TextEncoder();

/** This page's half of the key of one session. */
export interface Ephemeral {
  secret: Uint8Array;
  publicKey: string;
}

/** `random` must be fresh for each connection. */
export function ephemeralFrom(random: Uint8Array): Ephemeral {
  return { secret: random, publicKey: toHex(x25519.getPublicKey(random)) };
}

/** The key over what was signed, or null where the other side's key is so weak that everybody would know the secret. */
export function sessionKeyOf(
  { secret }: Ephemeral,
  otherKey: string,
  deviceText: string,
): Uint8Array | null {
  try {
    const shared = x25519.getSharedSecret(secret, fromHex(otherKey));
    if (shared.every((byte) => byte === 0)) return null;
    const bound = blake3(utf8.encode(deviceText));
    const material = new Uint8Array([...shared, ...bound]);
    const key = blake3(material, { context: utf8.encode("lanyard/2 session") });
    shared.fill(0);
    material.fill(0);
    secret.fill(0);
    return key;
  } catch {
    return null;
  }
}

/** Proves one request: nobody who hears it can use it for another, or twice. */
export function macOf(key: Uint8Array, method: string, target: string, counter: number): string {
  return toHex(
    blake3(utf8.encode(["lanyard/2 http", method, target, String(counter)].join("\n")), { key }),
  );
}

/** Proves the requests of one session, each with a counter of its own. */
export class Signer {
  #counter = 0;

  constructor(
    private readonly sessionId: string,
    private readonly key: Uint8Array,
  ) {}

  /** The headers of one request, which is sent once. `target` is its path with the query. */
  headers(method: string, target: string): Record<string, string> {
    this.#counter += 1;
    const mac = macOf(this.key, method, target, this.#counter);
    return { Authorization: `Lanyard ${this.sessionId}.${this.#counter}.${mac}` };
  }
}
