// Promise: a device is where the hub says it is, proves itself at each connect, and answers one
// challenge for one promise.
import { ed25519 } from "@noble/curves/ed25519.js";
import { beforeEach, describe, expect, test } from "vitest";
import { toHex } from "../identity/bytes";
import type { Door, Remembered } from "../identity/memory";
import {
  type Invitation,
  type Keys,
  codeOf,
  commitOf,
  deviceText,
  hubText,
  invitationIn,
  invitationProof,
  keysFrom,
  masterCommitOf,
  requestIdOf,
  sign,
  verifies,
  NO_CHANNEL,
} from "../identity/proof";
import { Signer, ephemeralFrom, sessionKeyOf } from "../identity/signer";
import { type Reveals, revealBook } from "../identity/reveals";
import { CLOSE_CODES } from "../protocol/generated/close_codes";
import { MAX_REVEALS, OPENING_TIMEOUT_MS, PROTOCOL_VERSION } from "../protocol/limits";
import type { DataOf, DeviceToRelay, Membership } from "../protocol/wire";
import { type Effect, Session } from "./session";

const HUB_SEED = new Uint8Array(32).fill(2);
const HUB = keysFrom(HUB_SEED);
const KEYS = keysFrom(new Uint8Array(32).fill(1));
const NONCE = "0a".repeat(32);
const relay = () => ephemeralFrom(new Uint8Array(32).fill(3));
const RELAY_EPHEMERAL = relay().publicKey;

let count = 0;
const random = (size: number) => new Uint8Array(size).fill((count += 1));

/** The contents of the browser's storage, and the clock. */
let kept: Map<string, string>;
let now = 5_000;
const storage = () => ({
  getItem: (name: string) => kept.get(name) ?? null,
  setItem: (name: string, value: string) => void kept.set(name, value),
});

function session(
  door: Door = "new",
  more: Partial<Remembered> = {},
  invitation: Invitation | null = null,
  keys: Keys = KEYS,
): Session {
  const remembered = { door, name: "Pixel 8", hubKey: null, hubName: null, ...more };
  return new Session({
    keys,
    authority: "192.168.1.10:7070",
    platform: "Chrome on Android",
    instance: "11".repeat(16),
    remembered,
    suggestion: "Android",
    random,
    now: () => now,
    resume: () => undefined,
    invitation,
    reveals: revealBook(storage()),
  });
}

function challenge(key = HUB.publicKey, protocol = PROTOCOL_VERSION) {
  return {
    opcode: "CHALLENGE",
    data: {
      protocol,
      boot_id: "0b".repeat(16),
      nonce: NONCE,
      ephemeral_key: RELAY_EPHEMERAL,
      hub: { name: "Studio PC", public_key: key },
      mode: "open",
    },
  } as const;
}

function sent<Code extends DeviceToRelay["opcode"]>(
  effects: Effect[],
  opcode: Code,
): DataOf<DeviceToRelay, Code> {
  const found = effects.find((effect) => effect.do === "send" && effect.message.opcode === opcode);
  if (found?.do !== "send") throw new Error(`${opcode} was not sent`);
  return found.message.data as DataOf<DeviceToRelay, Code>;
}

function handshakeOf(register: DataOf<DeviceToRelay, "CLIENT_REGISTER">) {
  return {
    bootId: "0b".repeat(16),
    relayNonce: NONCE,
    deviceNonce: register.nonce,
    hubKey: HUB.publicKey,
    deviceKey: KEYS.publicKey,
    authority: "192.168.1.10:7070",
    channel: NO_CHANNEL,
    relayEphemeral: RELAY_EPHEMERAL,
    deviceEphemeral: register.ephemeral_key,
  };
}

function ack(
  register: DataOf<DeviceToRelay, "CLIENT_REGISTER">,
  membership: Membership,
  seed = HUB_SEED,
) {
  const handshake = handshakeOf(register);
  const signature = sign(seed, hubText(handshake, KEYS.publicId));
  return {
    opcode: "CLIENT_REGISTER_ACK",
    data: {
      public_id: KEYS.publicId,
      membership,
      hub_ready: true,
      session_id: "aa".repeat(16),
      signature,
    },
  } as const;
}

const does = (effects: Effect[]) => effects.map((effect) => effect.do);

/** The master's half of the digits: the commitment and its opening. */
const promise = (request_id: string, nonce = "0c") =>
  ({
    opcode: "APPROVAL_CHALLENGE",
    data: { request_id, commit: masterCommitOf(HUB.publicKey, request_id, nonce.repeat(32)) },
  }) as const;
const opening = (request_id: string, nonce = "0c") =>
  ({ opcode: "APPROVAL_OPEN", data: { request_id, nonce: nonce.repeat(32) } }) as const;

beforeEach(() => {
  count = 0;
  now = 5_000;
  kept = new Map();
});

describe("at the door", () => {
  test("before the knock the page reads the hub's name, sends nothing and disconnects", () => {
    const one = session();
    expect(does(one.start())).toEqual(["connect"]);
    expect(does(one.hear(challenge()))).toEqual(["halt"]);
    expect(one).toMatchObject({ place: { at: "door" }, hubName: "Studio PC" });
  });

  test("a knock registers with a valid proof", () => {
    const one = session();
    one.knock("Ana’s iPhone");
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    const handshake = handshakeOf(register);
    expect(register).toMatchObject({
      name: "Ana’s iPhone",
      kind: "browser",
      instance: "11".repeat(16),
    });
    expect(verifies(KEYS.publicKey, deviceText(handshake), register.signature)).toBe(true);
    expect(one.remembered).toMatchObject({ door: "knocking", name: "Ana’s iPhone" });
  });

  test("an asynchronous signature registers, unless the connection has gone", async () => {
    const later = { ...KEYS, sign: (text: string) => Promise.resolve(KEYS.sign(text)) };
    for (const gone of [false, true]) {
      const one = session("knocking", {}, null, later);
      const [effect] = one.hear(challenge());
      if (effect?.do !== "sign") throw new Error("nothing is signed");
      if (gone) one.closed(1006);
      const message = await effect.signed;
      expect(message === null).toBe(gone);
    }
  });

  test("an invitation is proven for this join request, and its secret never sent", () => {
    const invitation = { id: "a1".repeat(8), secret: "b2".repeat(16) };
    const one = session("knocking", {}, invitation);
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    const request_id = requestIdOf(KEYS.publicKey, register.commit, NONCE, "Pixel 8");
    const proof = invitationProof(invitation.secret, request_id);
    expect(register.invitation).toEqual({ id: invitation.id, proof });
    one.hear(ack(register, "pending"));
    const said = one.hear({
      opcode: "APPROVAL_RESTART",
      data: { request_id, nonce: "0d".repeat(32) },
    });
    const again = sent(said, "APPROVAL_COMMIT");
    const next = requestIdOf(KEYS.publicKey, again.commit, "0d".repeat(32), "Pixel 8");
    expect(again.invitation).toEqual({
      id: invitation.id,
      proof: invitationProof(invitation.secret, next),
    });
    expect(JSON.stringify(register)).not.toContain(invitation.secret);
    expect(JSON.stringify(said)).not.toContain(invitation.secret);
    expect(invitationIn(`#k=00ff&i=${invitation.id}${invitation.secret}`)).toEqual(invitation);
    expect(invitationIn("#i=a1")).toBeNull();
    // The tests in Rust hold the same value.
    expect(invitationProof("b2".repeat(16), "5a".repeat(16))).toBe(
      "16435bd4f5f1e1f0f07098619858ab0e2690647e2e978d68a58de54d5fc8d987",
    );
  });

  test("a closed door is shown, and a new challenge opens it", () => {
    const one = session("knocking");
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    one.hear(ack(register, "pending"));
    const request_id = requestIdOf(KEYS.publicKey, register.commit, NONCE, "Pixel 8");
    one.hear({ opcode: "APPROVAL_CLOSED", data: { request_id: "00".repeat(16) } });
    expect(one.place).not.toMatchObject({ closed: true });
    one.hear({ opcode: "APPROVAL_CLOSED", data: { request_id } });
    expect(one.place).toMatchObject({ at: "knocking", closed: true, code: null });
    expect(one.hear(promise(request_id))).toEqual([]);
    one.hear({ opcode: "APPROVAL_RESTART", data: { request_id, nonce: "0d".repeat(32) } });
    expect(one.place).not.toMatchObject({ closed: true });
  });

  test("after stopping no join request remains, not even after a reload", () => {
    const one = session("knocking");
    expect(does(one.stopKnocking())).toEqual(["remember", "halt"]);
    expect(one.remembered.door).toBe("new");
    expect(one.place.at).toBe("door");
  });
});

describe("knocking", () => {
  function knocking() {
    const one = session("knocking");
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    one.hear(ack(register, "pending"));
    const request = requestIdOf(KEYS.publicKey, register.commit, NONCE, "Pixel 8");
    return { one, register, request };
  }

  test("the digits are shown once the master has opened its commitment", () => {
    const { one, register, request } = knocking();
    const { reveal, request_id } = sent(one.hear(promise(request)), "APPROVAL_REVEAL");
    expect(request_id).toBe(request);
    expect(commitOf(KEYS.publicKey, reveal)).toBe(register.commit);
    expect(one.place).toMatchObject({ at: "knocking", code: null });
    one.hear(opening(request, "0d"));
    expect(one.place).toMatchObject({ code: null });
    one.hear(opening(request));
    expect(one.place).toMatchObject({
      at: "knocking",
      code: codeOf(HUB.publicKey, KEYS.publicKey, request, reveal, "0c".repeat(32)),
    });
  });

  test("another request's challenge is not answered", () => {
    const { one } = knocking();
    expect(one.hear(promise("00".repeat(16)))).toEqual([]);
    expect(one.place).toMatchObject({ code: null });
  });

  test("a second challenge or opening for one commitment is never answered", () => {
    const { one, request } = knocking();
    one.hear(promise(request));
    expect(one.hear(promise(request, "0d"))).toEqual([]);
    one.hear(opening(request));
    const shown = one.place;
    expect(one.hear(promise(request, "0d"))).toEqual([]);
    one.hear(opening(request, "0d"));
    expect(one.place).toEqual(shown);
  });

  test("a restart makes a new commitment under the new nonce", () => {
    const { one, register, request } = knocking();
    one.hear(promise(request));
    one.hear(opening(request));
    const { commit } = sent(
      one.hear({
        opcode: "APPROVAL_RESTART",
        data: { request_id: request, nonce: "0e".repeat(32) },
      }),
      "APPROVAL_COMMIT",
    );
    expect(commit).not.toBe(register.commit);
    expect(one.place).toMatchObject({ code: null });
    const next = requestIdOf(KEYS.publicKey, commit, "0e".repeat(32), "Pixel 8");
    expect(does(one.hear(promise(next)))).toEqual(["send"]);
  });

  test("a lost connection takes the digits off the screen, not the knock", () => {
    const { one, request } = knocking();
    one.hear(promise(request));
    one.hear(opening(request));
    expect(one.closed(1006)).toEqual([]);
    expect(one.place).toMatchObject({ at: "knocking", since: 5_000, code: null });
  });

  test("being let in keeps the hub's key", () => {
    const { one } = knocking();
    const client = {
      public_id: KEYS.publicId,
      name: "Pixel 8",
      kind: "browser",
      platform: "",
    } as const;
    const effects = one.hear({
      opcode: "CLIENT_APPROVED",
      data: { client, epoch: 1, revision: 2, audience: "all" },
    });
    expect(does(effects)).toEqual(["remember", "entered"]);
    expect(one.remembered).toMatchObject({
      door: "approved",
      hubKey: HUB.publicKey,
      hubName: "Studio PC",
    });
    expect(one.place.at).toBe("inside");
  });

  test("another device's approval changes nothing", () => {
    const { one } = knocking();
    const client = { public_id: HUB.publicId, name: "x", kind: "browser", platform: "" } as const;
    expect(
      one.hear({
        opcode: "CLIENT_APPROVED",
        data: { client, epoch: 1, revision: 2, audience: "all" },
      }),
    ).toEqual([]);
  });
});

describe("a false hub that leaves once it knows the digits", () => {
  type Abort =
    "close" | "restart" | "shut" | "silence" | "wrong opening" | "admit" | "reload" | "other tab";
  const ABORTS: Abort[] = [
    "close",
    "restart",
    "shut",
    "silence",
    "wrong opening",
    "admit",
    "reload",
    "other tab",
  ];

  /** Plays the aborts until the page stops, and counts its reveals. */
  function reveals(aborts: Iterable<Abort>): { given: number; one: Session } {
    let one = session("knocking");
    let given = 0;
    let request: string | null = null;
    const isOver = () => one.place.at === "stopped";
    for (const abort of aborts) {
      if (isOver()) break;
      if (request === null) {
        const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
        one.hear(ack(register, "pending"));
        request = requestIdOf(KEYS.publicKey, register.commit, NONCE, "Pixel 8");
      }
      const said = one.hear(promise(request));
      given += said.filter(
        (effect) => effect.do === "send" && effect.message.opcode === "APPROVAL_REVEAL",
      ).length;
      if (isOver()) break;
      const old: string = request;
      request = null;
      if (abort === "restart") {
        const restarted = one.hear({
          opcode: "APPROVAL_RESTART",
          data: { request_id: old, nonce: "0e".repeat(32) },
        });
        const [effect] = restarted;
        if (effect?.do === "send" && effect.message.opcode === "APPROVAL_COMMIT")
          request = requestIdOf(
            KEYS.publicKey,
            effect.message.data.commit,
            "0e".repeat(32),
            "Pixel 8",
          );
        continue;
      }
      if (abort === "shut") one.hear({ opcode: "APPROVAL_CLOSED", data: { request_id: old } });
      if (abort === "wrong opening") one.hear(opening(old, "0d"));
      if (abort === "silence" || abort === "wrong opening") {
        now += OPENING_TIMEOUT_MS;
        one.tick();
        continue;
      }
      if (abort === "admit") {
        const client = {
          public_id: KEYS.publicId,
          name: "Pixel 8",
          kind: "browser",
          platform: "",
        } as const;
        one.hear({
          opcode: "CLIENT_APPROVED",
          data: { client, epoch: 1, revision: 2, audience: "all" },
        });
      }
      if (abort === "reload" || abort === "other tab") one = session("knocking");
      else one.closed(1006);
    }
    return { given, one };
  }
  const times = (abort: Abort, count: number) => Array<Abort>(count).fill(abort);

  test.each(ABORTS)("is given three reveals in 5,000 tries: %s", (abort) => {
    const { given, one } = reveals(times(abort, 5_000));
    expect(given).toBe(3);
    expect(one.place).toEqual({ at: "stopped", why: "not-opened" });
  });

  test("is given three reveals whatever it mixes", () => {
    expect(
      reveals(Array.from({ length: 5_000 }, (_, n) => ABORTS[n % ABORTS.length] ?? "close")).given,
    ).toBe(3);
  });

  test("gains nothing by openings in between, and a person starts the count again", () => {
    const left: Reveals = { unopened: 2, given: 4 };
    kept.set("lanyard.reveals", JSON.stringify(left));
    const one = session("knocking");
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    one.hear(ack(register, "pending"));
    const request = requestIdOf(KEYS.publicKey, register.commit, NONCE, "Pixel 8");
    one.hear(promise(request));
    one.hear(opening(request));
    expect(JSON.parse(kept.get("lanyard.reveals") ?? "")).toEqual({ unopened: 2, given: 5 });
    one.closed(1006);
    expect(reveals(times("close", 10)).given).toBe(1);
    const stopped = session("knocking");
    stopped.hear(ack(sent(stopped.hear(challenge()), "CLIENT_REGISTER"), "pending"));
    stopped.tryAgain();
    expect(reveals(times("close", 10)).given).toBe(3);
  });

  test("gets a limited number of reveals, and a corrupt count is taken as full", () => {
    for (const text of [
      JSON.stringify({ unopened: 0, given: MAX_REVEALS }),
      "{}",
      "nonsense",
      '{"unopened":-1,"given":0}',
    ]) {
      kept.set("lanyard.reveals", text);
      expect(reveals(times("close", 10)).given).toBe(0);
    }
  });

  test("does not get more when the tab reconnects by itself", () => {
    reveals(times("close", 10));
    const one = session("knocking");
    one.goOn("22".repeat(16));
    expect(reveals(times("close", 10)).given).toBe(0);
  });
});

describe("the hub", () => {
  test("with another key than the known one gets no message", () => {
    const one = session("approved", {
      hubKey: toHex(ed25519.getPublicKey(new Uint8Array(32).fill(9))),
    });
    expect(does(one.hear(challenge()))).toEqual(["halt", "cleared"]);
    expect(one.place).toMatchObject({ at: "key-mismatch", offered: HUB.publicKey });
  });

  test("that cannot sign for its key is disconnected", () => {
    const one = session("approved");
    const register = sent(one.hear(challenge()), "CLIENT_REGISTER");
    expect(does(one.hear(ack(register, "approved", new Uint8Array(32).fill(7))))).toEqual(["halt"]);
    expect(one).toMatchObject({ place: { at: "stopped", why: "impostor" }, signer: null });
  });

  test("proves requests with the key that both sides agreed on, which was never sent", () => {
    const one = session("approved");
    const heard = challenge();
    const effects = one.hear(heard);
    const register = sent(effects, "CLIENT_REGISTER");
    const answer = ack(register, "approved");
    one.hear(answer);
    const key = sessionKeyOf(relay(), register.ephemeral_key, deviceText(handshakeOf(register)));
    if (!key) throw new Error("no key");
    const theirs = new Signer(answer.data.session_id, key);
    for (const method of ["GET", "PUT"])
      expect(one.signer?.headers(method, "/chunks/x")).toEqual(theirs.headers(method, "/chunks/x"));
    const said = JSON.stringify([heard, effects, answer]);
    expect(said).not.toContain(toHex(key));
  });

  test("with a weak half of the session key is disconnected", () => {
    const weak = { ...challenge(), data: { ...challenge().data, ephemeral_key: "00".repeat(32) } };
    const one = session("approved");
    const register = sent(one.hear(weak), "CLIENT_REGISTER");
    const signature = sign(
      HUB_SEED,
      hubText({ ...handshakeOf(register), relayEphemeral: "00".repeat(32) }, KEYS.publicId),
    );
    one.hear({
      opcode: "CLIENT_REGISTER_ACK",
      data: {
        public_id: KEYS.publicId,
        membership: "approved",
        hub_ready: true,
        session_id: "aa".repeat(16),
        signature,
      },
    });
    expect(one).toMatchObject({ place: { at: "stopped", why: "impostor" }, signer: null });
  });

  test("of another version is reported as such", () => {
    for (const door of ["new", "knocking", "approved", "refused"] as const) {
      for (const met of [1, PROTOCOL_VERSION + 1]) {
        const one = session(door);
        expect(one.hear(challenge(HUB.publicKey, met))).toEqual([
          { do: "halt" },
          { do: "outdated", met: String(met) },
        ]);
        expect(one.place).toEqual({ at: "stopped", why: "version" });
      }
    }
  });

  test("that rejects the registration for its version is reported as such, too", () => {
    const one = session("approved");
    one.hear(challenge());
    const no = one.hear({
      opcode: "REQUEST_FAILED",
      data: { code: "UNSUPPORTED_VERSION", message: "" },
    });
    expect(does(no)).toEqual(["halt", "outdated"]);
  });
});

describe("membership", () => {
  test.each([
    ["approved", "inside"],
    ["pending", "knocking"],
    ["disapproved", "refused"],
  ] as const)("%s leads to %s", (membership, at) => {
    const one = session("approved");
    one.hear(ack(sent(one.hear(challenge()), "CLIENT_REGISTER"), membership));
    expect(one.place.at).toBe(at);
  });

  test("unknown keeps the last known state until the roster is there", () => {
    const one = session("approved");
    one.hear(ack(sent(one.hear(challenge()), "CLIENT_REGISTER"), "unknown"));
    expect(one).toMatchObject({ place: { at: "inside" }, entered: false });
    expect(does(one.hear({ opcode: "MEMBERSHIP", data: { membership: "approved" } }))).toEqual([
      "remember",
      "entered",
    ]);
    expect(one.entered).toBe(true);
  });

  test("refusal is final on this page and remembered for the next", () => {
    const one = session("approved");
    one.hear(ack(sent(one.hear(challenge()), "CLIENT_REGISTER"), "approved"));
    const effects = one.hear({
      opcode: "CLIENT_DIS_APPROVED",
      data: { public_id: KEYS.publicId, epoch: 1, revision: 3, audience: "all" },
    });
    expect(does(effects)).toEqual(["remember", "halt", "cleared"]);
    expect(one).toMatchObject({
      place: { at: "refused" },
      signer: null,
      remembered: { door: "refused" },
    });
  });

  test("a refused page asks once when it is loaded, and waits for nobody", () => {
    const one = session("refused");
    expect(does(one.start())).toEqual(["connect"]);
    expect(does(one.closed(1006))).toEqual(["halt"]);
    expect(one.place.at).toBe("refused");
  });
});

describe("a closed socket", () => {
  test.each([
    ["BAD_MESSAGE", "protocol"],
    ["UNAUTHENTICATED", "refused-proof"],
  ] as const)("%s ends the attempts", (code, why) => {
    const one = session("approved");
    expect(does(one.closed(CLOSE_CODES[code]))).toEqual(["halt"]);
    expect(one.place).toEqual({ at: "stopped", why });
  });

  test("REVOKED refuses, SUPERSEDED asks for a new instance, RATE_LIMITED waits", () => {
    expect(does(session("approved").closed(CLOSE_CODES.REVOKED))).toEqual([
      "remember",
      "halt",
      "cleared",
    ]);
    expect(does(session("approved").closed(CLOSE_CODES.SUPERSEDED))).toEqual([
      "halt",
      "superseded",
    ]);
    const crowded = session("knocking");
    expect(crowded.closed(CLOSE_CODES.RATE_LIMITED)).toEqual([]);
    expect(crowded.busy).toBe(true);
  });

  test("drops the session key", () => {
    const one = session("approved");
    one.hear(ack(sent(one.hear(challenge()), "CLIENT_REGISTER"), "approved"));
    expect(one.signer).not.toBeNull();
    one.closed(1006);
    expect(one).toMatchObject({ signer: null, entered: false, place: { at: "inside" } });
  });
});
