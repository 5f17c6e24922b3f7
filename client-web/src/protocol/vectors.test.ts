// Promise: this page computes the same ids, codes and signatures as every other implementation.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "../identity/bytes";
import {
  codeOf,
  commitOf,
  deviceText,
  drawnLink,
  hubText,
  keysFrom,
  masterCommitOf,
  publicIdOf,
  requestIdOf,
  sign,
  verifies,
  type Handshake,
} from "../identity/proof";
import { Signer, ephemeralFrom, macOf, sessionKeyOf } from "../identity/signer";
import { groupLog } from "./limits";

interface Vectors {
  public_id: { seed: string; public_key: string; public_id: string }[];
  register: Record<
    | "device_seed"
    | "hub_seed"
    | "boot_id"
    | "relay_nonce"
    | "device_nonce"
    | "hub_public_key"
    | "device_public_key"
    | "authority"
    | "channel"
    | "relay_ephemeral_key"
    | "device_ephemeral_secret"
    | "device_ephemeral_key"
    | "device_text"
    | "device_signature"
    | "hub_text"
    | "hub_signature",
    string
  >[];
  session: (Record<
    | "relay_ephemeral_secret"
    | "relay_ephemeral_key"
    | "device_ephemeral_secret"
    | "device_ephemeral_key"
    | "device_text"
    | "session_key"
    | "session_id",
    string
  > & {
    requests: {
      method: string;
      target: string;
      counter: number;
      mac: string;
      authorization: string;
    }[];
  })[];
  weak_ephemeral_keys: string[];
  approval: Record<
    | "hub_public_key"
    | "device_public_key"
    | "name"
    | "reveal"
    | "commit"
    | "relay_nonce"
    | "request_id"
    | "master_nonce"
    | "master_commit"
    | "code",
    string
  >[];
  group_log: { size: number; group_log: number }[];
  link_keys: Record<"seed" | "public_id" | "link" | "link_hash" | "binding", string>[];
}

const vectors = JSON.parse(
  readFileSync(resolve(process.cwd(), "../protocol/vectors/vectors.json"), "utf8"),
) as Vectors;

test.each(vectors.link_keys)(
  "a link is bound to its maker: $link_hash",
  ({ seed, public_id, link, link_hash, binding }) => {
    expect(drawnLink(fromHex(seed), public_id)).toEqual({ key: link, hash: link_hash, binding });
  },
);

test.each(vectors.public_id)(
  "a seed gives its key and public id: $public_id",
  ({ seed, public_key, public_id }) => {
    expect(keysFrom(fromHex(seed))).toMatchObject({ publicKey: public_key, publicId: public_id });
    expect(publicIdOf(public_key)).toBe(public_id);
  },
);

describe.each(vectors.register)("the handshake at $authority", (vector) => {
  const handshake: Handshake = {
    bootId: vector.boot_id,
    relayNonce: vector.relay_nonce,
    deviceNonce: vector.device_nonce,
    hubKey: vector.hub_public_key,
    deviceKey: vector.device_public_key,
    authority: vector.authority,
    channel: vector.channel,
    relayEphemeral: vector.relay_ephemeral_key,
    deviceEphemeral: ephemeralFrom(fromHex(vector.device_ephemeral_secret)).publicKey,
  };
  const publicId = publicIdOf(vector.device_public_key);

  test("both texts are exact", () => {
    expect(deviceText(handshake)).toBe(vector.device_text);
    expect(hubText(handshake, publicId)).toBe(vector.hub_text);
  });

  test("the device signs what the vector signs", () => {
    expect(sign(fromHex(vector.device_seed), vector.device_text)).toBe(vector.device_signature);
  });

  test("the hub's signature is accepted, and nothing near it", () => {
    expect(verifies(vector.hub_public_key, vector.hub_text, vector.hub_signature)).toBe(true);
    expect(verifies(vector.hub_public_key, `${vector.hub_text} `, vector.hub_signature)).toBe(
      false,
    );
    expect(verifies(vector.device_public_key, vector.hub_text, vector.hub_signature)).toBe(false);
    const flipped = fromHex(vector.hub_signature);
    flipped[3] = (flipped[3] ?? 0) ^ 1;
    expect(verifies(vector.hub_public_key, vector.hub_text, toHex(flipped))).toBe(false);
    expect(verifies(vector.hub_public_key, vector.hub_text, "no hex")).toBe(false);
  });
});

describe.each(vectors.session)("the key of a session, $session_id", (vector) => {
  test("is the same on both sides", () => {
    const device = ephemeralFrom(fromHex(vector.device_ephemeral_secret));
    const relay = ephemeralFrom(fromHex(vector.relay_ephemeral_secret));
    expect([device.publicKey, relay.publicKey]).toEqual([
      vector.device_ephemeral_key,
      vector.relay_ephemeral_key,
    ]);
    expect(
      toHex(
        sessionKeyOf(device, vector.relay_ephemeral_key, vector.device_text) ?? new Uint8Array(),
      ),
    ).toBe(vector.session_key);
    expect(
      toHex(
        sessionKeyOf(relay, vector.device_ephemeral_key, vector.device_text) ?? new Uint8Array(),
      ),
    ).toBe(vector.session_key);
  });

  test("proves each request", () => {
    const key = fromHex(vector.session_key);
    for (const { method, target, counter, mac } of vector.requests)
      expect(macOf(key, method, target, counter)).toBe(mac);
    const signer = new Signer(vector.session_id, key);
    for (const { method, target, counter, authorization } of vector.requests.slice(0, 2)) {
      expect(signer.headers(method, target)).toEqual({ Authorization: authorization });
      expect(authorization).toContain(`.${counter}.`);
    }
  });
});

test.each(vectors.weak_ephemeral_keys)("a weak key agrees on nothing: %s", (weak) => {
  expect(sessionKeyOf(ephemeralFrom(new Uint8Array(32).fill(9)), weak, "text")).toBeNull();
});

test.each(vectors.approval)("a knock's commit, request and code: $code", (vector) => {
  expect(commitOf(vector.device_public_key, vector.reveal)).toBe(vector.commit);
  expect(
    requestIdOf(vector.device_public_key, vector.commit, vector.relay_nonce, vector.name),
  ).toBe(vector.request_id);
  expect(masterCommitOf(vector.hub_public_key, vector.request_id, vector.master_nonce)).toBe(
    vector.master_commit,
  );
  expect(
    codeOf(
      vector.hub_public_key,
      vector.device_public_key,
      vector.request_id,
      vector.reveal,
      vector.master_nonce,
    ),
  ).toBe(vector.code);
});

test.each(vectors.group_log)(
  "a file of $size bytes has groups of 2^$group_log",
  ({ size, group_log }) => {
    expect(groupLog(size)).toBe(group_log);
  },
);

test("a small-order key signs nothing here", () => {
  const weak = `01${"00".repeat(31)}`;
  expect(verifies(weak, "anything", `01${"00".repeat(63)}`)).toBe(false);
});
