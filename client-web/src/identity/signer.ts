/**
 * Agrees on the key of one session, which is never sent, and proves that requests belong to the
 * session. Does not use WebCrypto, which is missing on plain http.
 */
import { x25519 } from "@noble/curves/ed25519.js";
import { blake3 } from "@noble/hashes/blake3.js";
import { fromHex, toHex } from "./bytes";

const utf8 = new TextEncoder();

/** This page's half of one session's key. */
export interface Ephemeral {
  secret: Uint8Array;
  publicKey: string;
}

/** Creates an X25519 key pair. `random` must be fresh for each connection. */
export function ephemeralFrom(random: Uint8Array): Ephemeral {
  return { secret: random, publicKey: toHex(x25519.getPublicKey(random)) };
}

/**
 * Derives the session key over the signed text. Returns null if the other side's key is so weak
 * that the secret would be known.
 */
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

/** Proves one request. The proof cannot be used for another request, or twice. */
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

  /**
   * Returns the headers of one request, which is sent once. `target` is the path with the query.
   */
  headers(method: string, target: string): Record<string, string> {
    this.#counter += 1;
    const mac = macOf(this.key, method, target, this.#counter);
    return { Authorization: `Lanyard ${this.sessionId}.${this.#counter}.${mac}` };
  }
}
