/**
 * Keeps this device's membership: at the door, knocking, inside, turned away. Pure: takes events
 * and returns effects. Signs and verifies, but has no socket, clock or storage.
 */
import type { Random } from "../identity/bytes";
import { toHex } from "../identity/bytes";
import type { Remembered } from "../identity/memory";
import {
  type Handshake,
  type Invitation,
  type Keys,
  NO_CHANNEL,
  deviceText,
  hubText,
  invitationProof,
  verifies,
} from "../identity/proof";
import { type Ephemeral, Signer, ephemeralFrom, sessionKeyOf } from "../identity/signer";
import { type RevealBook, beginAnew, give, isSpent, opened } from "../identity/reveals";
import { CLOSE_CODES } from "../protocol/generated/close_codes";
import { OPENING_TIMEOUT_MS, PROTOCOL_VERSION } from "../protocol/limits";
import type {
  DataOf,
  DeviceToRelay,
  Membership,
  RelayToDevice,
  Resume,
  TransportMode,
} from "../protocol/wire";
import {
  type JoinRequest,
  answerChallenge,
  codeIn,
  newJoinRequest,
  open,
  requestOf,
  restart,
} from "./join_request";

export type Stop =
  "version" | "refused-proof" | "protocol" | "superseded" | "impostor" | "not-opened";

/** The screen to show, apart from the state of the connection. */
export type Place =
  | { at: "door" }
  /** `closed`: the host admits nobody at the moment. `asked`: when this join request was sent. */
  | { at: "knocking"; since: number; code: string | null; closed?: boolean; asked?: number }
  | { at: "inside" }
  | { at: "refused" }
  | { at: "key-mismatch"; known: string; offered: string }
  | { at: "stopped"; why: Stop };

export type Effect =
  | { do: "connect" }
  | { do: "halt" }
  | { do: "settled" }
  | { do: "send"; message: DeviceToRelay }
  /**
   * A message to send once the browser has signed it, or null if its connection has gone by then.
   */
  | { do: "sign"; signed: Promise<DeviceToRelay | null> }
  | { do: "remember"; what: Remembered }
  /** Another tab took over this instance. */
  | { do: "superseded" }
  /** Approved on this connection. The feed follows. */
  | { do: "entered" }
  /** Everything of the hub is removed from the screen. */
  | { do: "cleared" }
  /** The hub has another version, `met`, and therefore another page. */
  | { do: "outdated"; met: string };

export interface SessionSetup {
  keys: Keys;
  authority: string;
  platform: string;
  instance: string;
  remembered: Remembered;
  /** The suggested name. */
  suggestion: string;
  random: Random;
  now(): number;
  resume(): Resume | undefined;
  /** The invitation from the address, with which a device is let in without a question. */
  invitation: Invitation | null;
  /** The reveals of this browser. */
  reveals: RevealBook;
}

export class Session {
  place: Place;
  hubName: string | null;
  hubReady = false;
  mode: TransportMode | null = null;
  /** Signs the HTTP requests of the current connection. */
  signer: Signer | null = null;
  /** True after the hub reported too many requests, until its next answer. */
  busy = false;
  remembered: Remembered;
  instance: string;
  #handshake: Handshake | null = null;
  #ephemeral: Ephemeral | null = null;
  #joinRequest: JoinRequest | null = null;
  #entered = false;

  constructor(private readonly setup: SessionSetup) {
    this.remembered = setup.remembered;
    this.instance = setup.instance;
    this.hubName = setup.remembered.hubName;
    this.place = this.#placeFrom(setup.remembered);
  }

  get name(): string {
    return this.remembered.name ?? this.setup.suggestion;
  }

  get hubKey(): string | null {
    return this.#handshake?.hubKey ?? this.remembered.hubKey;
  }

  /** True if approved on the current connection. */
  get entered(): boolean {
    return this.#entered;
  }

  /**
   * Opens the page. A new device only listens for the hub's name; any other continues its session.
   */
  start(): Effect[] {
    return [{ do: "connect" }];
  }

  knock(name: string): Effect[] {
    beginAnew(this.setup.reveals);
    this.place = { at: "knocking", since: this.setup.now(), code: null };
    return [this.#remember({ name, door: "knocking" }), { do: "connect" }];
  }

  stopKnocking(): Effect[] {
    this.#forgetConnection();
    this.place = { at: "door" };
    return [this.#remember({ door: "new" }), { do: "halt" }];
  }

  /** Tries again on a person's request, where nothing happens by itself. */
  tryAgain(instance = this.instance): Effect[] {
    beginAnew(this.setup.reveals);
    return this.goOn(instance);
  }

  /** Tries again without a person's request. */
  goOn(instance: string): Effect[] {
    this.instance = instance;
    if (this.place.at === "stopped") this.place = this.#placeFrom(this.remembered);
    return [{ do: "connect" }];
  }

  closed(code: number): Effect[] {
    const wasKnocking = this.place.at === "knocking";
    const isLost = this.#isRevealed;
    this.#forgetConnection();
    if (code === CLOSE_CODES.REVOKED) return this.#refuse();
    if (code === CLOSE_CODES.SUPERSEDED) return [{ do: "halt" }, { do: "superseded" }];
    if (code === CLOSE_CODES.BAD_MESSAGE) return this.#stop("protocol");
    if (code === CLOSE_CODES.UNAUTHENTICATED) return this.#stop("refused-proof");
    if (isLost && isSpent(this.setup.reveals.read())) return this.#stop("not-opened");
    if (code === CLOSE_CODES.RATE_LIMITED) this.busy = true;
    // On these two screens the person decides when to connect.
    if (this.place.at === "door" || this.place.at === "refused") return [{ do: "halt" }];
    if (wasKnocking && this.place.at === "knocking") this.place = { ...this.place, code: null };
    return [];
  }

  hear(message: RelayToDevice): Effect[] {
    switch (message.opcode) {
      case "CHALLENGE":
        return this.#challenge(message.data);
      case "CLIENT_REGISTER_ACK":
        return this.#acknowledged(message.data);
      case "MEMBERSHIP":
        // The relay learns memberships from the master alone.
        this.hubReady ||= message.data.membership !== "unknown";
        return this.#belongs(message.data.membership);
      case "APPROVAL_CHALLENGE":
        return this.#reveal(message.data);
      case "APPROVAL_OPEN":
        return this.#opened(message.data);
      case "APPROVAL_RESTART":
        return this.#restart(message.data);
      case "APPROVAL_CLOSED":
        return this.#shut(message.data.request_id);
      case "CLIENT_APPROVED":
        if (message.data.client.public_id !== this.setup.keys.publicId) return [];
        // A pending device receives no HUB_READY. An approval shows that the master is connected.
        this.hubReady = true;
        return this.#belongs("approved");
      case "CLIENT_DIS_APPROVED":
        return message.data.public_id === this.setup.keys.publicId ? this.#refuse() : [];
      case "CLIENT_UPDATED":
        return message.data.client.public_id === this.setup.keys.publicId
          ? [this.#remember({ name: message.data.client.name })]
          : [];
      case "HUB_READY":
        this.hubReady = true;
        return [];
      case "SERVER_NOT_READY":
        this.hubReady = false;
        return [];
      case "REQUEST_FAILED":
        return this.#failed(message.data.code);
      default:
        return [];
    }
  }

  #challenge(data: DataOf<RelayToDevice, "CHALLENGE">): Effect[] {
    this.mode = data.mode;
    this.hubName = data.hub.name;
    if (data.protocol !== PROTOCOL_VERSION) return this.#outdated(String(data.protocol));
    const known = this.remembered.hubKey;
    if (known !== null && known !== data.hub.public_key) {
      this.place = { at: "key-mismatch", known, offered: data.hub.public_key };
      return [{ do: "halt" }, { do: "cleared" }];
    }
    if (this.place.at === "door") return [{ do: "halt" }];
    return [this.#register(data)];
  }

  #register(data: DataOf<RelayToDevice, "CHALLENGE">): Effect {
    const { keys, authority, platform, random } = this.setup;
    const ephemeral = ephemeralFrom(random(32));
    const handshake: Handshake = {
      bootId: data.boot_id,
      relayNonce: data.nonce,
      deviceNonce: toHex(random(32)),
      hubKey: data.hub.public_key,
      deviceKey: keys.publicKey,
      authority,
      channel: NO_CHANNEL,
      relayEphemeral: data.ephemeral_key,
      deviceEphemeral: ephemeral.publicKey,
    };
    const name = this.name;
    this.#handshake = handshake;
    this.#ephemeral = ephemeral;
    this.#joinRequest = newJoinRequest(
      { publicKey: keys.publicKey, hubKey: handshake.hubKey, name },
      data.nonce,
      random,
    );
    const resume = this.setup.resume();
    const commit = this.#joinRequest.commit;
    const invitation = this.#invitationFor(this.#joinRequest);
    const signed = (signature: string): DeviceToRelay => ({
      opcode: "CLIENT_REGISTER",
      data: {
        protocol: PROTOCOL_VERSION,
        name,
        kind: "browser",
        platform,
        instance: this.instance,
        public_key: keys.publicKey,
        nonce: handshake.deviceNonce,
        ephemeral_key: handshake.deviceEphemeral,
        signature,
        commit,
        ...invitation,
        ...(resume ? { resume } : {}),
      },
    });
    const signature = keys.sign(deviceText(handshake));
    if (typeof signature === "string") return { do: "send", message: signed(signature) };
    return {
      do: "sign",
      signed: signature.then((text) => (this.#handshake === handshake ? signed(text) : null)),
    };
  }

  #acknowledged(data: DataOf<RelayToDevice, "CLIENT_REGISTER_ACK">): Effect[] {
    const { publicId } = this.setup.keys;
    const handshake = this.#handshake;
    const ephemeral = this.#ephemeral;
    this.#ephemeral = null;
    if (!handshake || !ephemeral || data.public_id !== publicId) return this.#stop("impostor");
    if (!verifies(handshake.hubKey, hubText(handshake, publicId), data.signature))
      return this.#stop("impostor");
    const key = sessionKeyOf(ephemeral, handshake.relayEphemeral, deviceText(handshake));
    if (!key) return this.#stop("impostor");
    this.busy = false;
    this.signer = data.session_id === undefined ? null : new Signer(data.session_id, key);
    this.hubReady = data.hub_ready;
    return [{ do: "settled" }, ...this.#belongs(data.membership)];
  }

  #belongs(membership: Membership): Effect[] {
    switch (membership) {
      case "approved": {
        const first = !this.#entered;
        this.#entered = true;
        this.place = { at: "inside" };
        const kept = this.#remember({
          door: "approved",
          hubKey: this.hubKey,
          hubName: this.hubName,
        });
        return first ? [kept, { do: "entered" }] : [kept];
      }
      case "pending": {
        const since = this.place.at === "knocking" ? this.place.since : this.setup.now();
        const wasInside = this.place.at === "inside";
        this.place = {
          at: "knocking",
          since,
          code: codeIn(this.#joinRequest),
          asked: this.setup.now(),
        };
        return [
          this.#remember({ door: "knocking" }),
          ...(wasInside ? [{ do: "cleared" } as const] : []),
        ];
      }
      case "disapproved":
        return this.#refuse();
      case "unknown":
        if (this.place.at === "refused")
          this.place = { at: "knocking", since: this.setup.now(), code: null };
        return [];
    }
  }

  /** Proves this device's invitation for this join request. */
  #invitationFor(request: JoinRequest): { invitation?: { id: string; proof: string } } {
    const { invitation } = this.setup;
    return invitation
      ? {
          invitation: {
            id: invitation.id,
            proof: invitationProof(invitation.secret, requestOf(request)),
          },
        }
      : {};
  }

  /** True while the hub knows the digits and this page does not. */
  get #isRevealed(): boolean {
    return this.#joinRequest?.stage.at === "revealed";
  }

  /** Reveals once, after the master has committed. The reveal is counted before it is sent. */
  #reveal(data: DataOf<RelayToDevice, "APPROVAL_CHALLENGE">): Effect[] {
    const { reveals, now } = this.setup;
    const request =
      this.#joinRequest && answerChallenge(this.#joinRequest, data.request_id, data.commit, now());
    if (!request) return [];
    // Only a master sends a challenge.
    this.hubReady = true;
    if (isSpent(reveals.read())) return this.#stop("not-opened");
    give(reveals);
    this.#show(request);
    return [
      {
        do: "send",
        message: {
          opcode: "APPROVAL_REVEAL",
          data: { request_id: data.request_id, reveal: request.reveal },
        },
      },
    ];
  }

  /**
   * Takes the nonce to which the master had committed, and computes the digits. Ignores any other
   * nonce.
   */
  #opened(data: DataOf<RelayToDevice, "APPROVAL_OPEN">): Effect[] {
    const request = this.#joinRequest && open(this.#joinRequest, data.request_id, data.nonce);
    if (!request) return [];
    opened(this.setup.reveals);
    this.#show(request);
    return [];
  }

  /**
   * Handles the tick of each second. A reveal that is not opened in time is lost, and the
   * connection is closed.
   */
  tick(): Effect[] {
    const stage = this.#joinRequest?.stage;
    if (stage?.at !== "revealed" || this.setup.now() - stage.since < OPENING_TIMEOUT_MS) return [];
    if (isSpent(this.setup.reveals.read())) return this.#stop("not-opened");
    this.#forgetConnection();
    return [{ do: "halt" }, { do: "connect" }];
  }

  #shut(requestId: string): Effect[] {
    if (!this.#joinRequest || requestOf(this.#joinRequest) !== requestId) return [];
    const isLost = this.#isRevealed;
    this.#show({ ...this.#joinRequest, stage: { at: "closed" } });
    return isLost && isSpent(this.setup.reveals.read()) ? this.#stop("not-opened") : [];
  }

  #restart(data: DataOf<RelayToDevice, "APPROVAL_RESTART">): Effect[] {
    const isLost = this.#isRevealed;
    const request =
      this.#joinRequest &&
      restart(this.#joinRequest, data.request_id, data.nonce, this.setup.random);
    if (!request) return [];
    if (isLost && isSpent(this.setup.reveals.read())) return this.#stop("not-opened");
    this.#show(request);
    return [
      {
        do: "send",
        message: {
          opcode: "APPROVAL_COMMIT",
          data: { commit: request.commit, ...this.#invitationFor(request) },
        },
      },
    ];
  }

  #show(request: JoinRequest): void {
    this.#joinRequest = request;
    if (this.place.at !== "knocking") return;
    const closed = request.stage.at === "closed";
    const asked = request.stage.at === "committed" ? this.setup.now() : this.place.asked;
    this.place = {
      ...this.place,
      code: codeIn(request),
      closed,
      ...(asked === undefined ? {} : { asked }),
    };
  }

  #failed(code: string): Effect[] {
    if (code === "UNSUPPORTED_VERSION") return this.#outdated("another");
    return [];
  }

  #refuse(): Effect[] {
    this.#forgetConnection();
    this.place = { at: "refused" };
    return [this.#remember({ door: "refused" }), { do: "halt" }, { do: "cleared" }];
  }

  #outdated(met: string): Effect[] {
    return [...this.#stop("version"), { do: "outdated", met }];
  }

  #stop(why: Stop): Effect[] {
    this.#forgetConnection();
    this.place = { at: "stopped", why };
    return [{ do: "halt" }];
  }

  /** Stops after another tab took this one's place for good. */
  supersededForGood(): void {
    this.place = { at: "stopped", why: "superseded" };
  }

  #forgetConnection(): void {
    this.signer = null;
    this.#ephemeral = null;
    this.#entered = false;
    this.#handshake = null;
    this.#joinRequest = null;
  }

  #placeFrom({ door }: Remembered): Place {
    if (door === "approved") return { at: "inside" };
    if (door === "refused") return { at: "refused" };
    return door === "knocking"
      ? { at: "knocking", since: this.setup.now(), code: null }
      : { at: "door" };
  }

  #remember(what: Partial<Remembered>): Effect {
    this.remembered = { ...this.remembered, ...what };
    return { do: "remember", what: this.remembered };
  }
}
