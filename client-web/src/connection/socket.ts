/**
 * Keeps one WebSocket connected. Handles frames, silence and waiting, and does not read messages.
 *
 * Reconnects by itself until `halt`. A socket that claims to be OPEN may be dead. So silence is
 * answered with a PING, and a PING without an answer ends the connection.
 */
import { decode, encode } from "../protocol/codec";
import {
  OLD_SUBPROTOCOL,
  PING_OF_A_PAGE_MS,
  PONG_TIMEOUT_MS,
  SUBPROTOCOL,
} from "../protocol/limits";
import type {
  ConsoleToMaster,
  DeviceToRelay,
  Incoming,
  MasterToConsole,
  RelayToDevice,
} from "../protocol/wire";
import { delayBefore } from "./backoff";

const PROBE_MS = 5_000;
const CONNECT_MS = 10_000;
const UNSEEN = 4_000;

export type LinkState =
  | { at: "idle" }
  | { at: "connecting"; attempt: number }
  | { at: "open" }
  | { at: "waiting"; attempt: number; retryAt: number };

export interface SocketEvents<Message> {
  message(message: Incoming<Message>): void;
  closed(code: number): void;
  state(state: LinkState): void;
}

export interface SocketTools {
  now(): number;
  chance(): number;
  open(url: string): WebSocket;
}

export const realTools: SocketTools = {
  now: () => Date.now(),
  chance: () => Math.random(),
  open: (url) => new WebSocket(url, [SUBPROTOCOL, OLD_SUBPROTOCOL]),
};

export class Socket<Message extends RelayToDevice | MasterToConsole> {
  #socket: WebSocket | null = null;
  #state: LinkState = { at: "idle" };
  #attempt = 0;
  #heard = 0;
  #deadline: number | null = null;

  constructor(
    private readonly url: string,
    private readonly events: SocketEvents<Message>,
    private readonly tools: SocketTools = realTools,
  ) {}

  get state(): LinkState {
    return this.#state;
  }

  /** Connects now, whatever the socket was doing. */
  connect(): void {
    this.#drop();
    this.#enter({ at: "connecting", attempt: this.#attempt });
    this.#deadline = this.tools.now() + CONNECT_MS;
    const socket = this.tools.open(this.url);
    this.#socket = socket;
    socket.onopen = () => {
      this.#heard = this.tools.now();
      this.#deadline = null;
      this.#enter({ at: "open" });
    };
    socket.onmessage = (event: MessageEvent) => this.#hear(event.data);
    socket.onclose = (event: CloseEvent) => this.#lost(event.code);
  }

  /** Ends the connection and stays away until `connect`. */
  halt(): void {
    this.#drop();
    this.#attempt = 0;
    this.#enter({ at: "idle" });
  }

  /** Resets the backoff once the hub has accepted this device. */
  settled(): void {
    this.#attempt = 0;
  }

  send(message: DeviceToRelay | ConsoleToMaster, ref?: string): boolean {
    if (this.#state.at !== "open" || this.#socket?.readyState !== 1) return false;
    this.#socket.send(encode(message, ref));
    return true;
  }

  /**
   * Probes the connection at once after an event that sockets often do not survive, such as sleep
   * or a change of network.
   */
  wake(): void {
    if (this.#state.at === "waiting") this.connect();
    else if (this.#state.at === "open") this.#ask(PROBE_MS);
  }

  /** Handles the tick of each second. */
  tick(): void {
    const now = this.tools.now();
    if (this.#state.at === "waiting" && now >= this.#state.retryAt) this.connect();
    else if (this.#deadline !== null && now >= this.#deadline) this.#lost(UNSEEN);
    else if (
      this.#state.at === "open" &&
      this.#deadline === null &&
      now - this.#heard > PING_OF_A_PAGE_MS
    )
      this.#ask(PONG_TIMEOUT_MS);
  }

  #ask(within: number): void {
    this.send({ opcode: "PING", data: {} });
    const due = this.tools.now() + within;
    this.#deadline = this.#deadline === null ? due : Math.min(this.#deadline, due);
  }

  #hear(frame: unknown): void {
    this.#heard = this.tools.now();
    this.#deadline = null;
    const decoded = decode<Message>(frame);
    if (decoded.kind === "message") this.events.message(decoded.message);
    else
      console.warn(
        "lanyard: a frame was not understood:",
        decoded.kind === "unknown" ? decoded.opcode : decoded.why,
      );
  }

  #lost(code: number): void {
    this.#drop();
    const retryAt = this.tools.now() + delayBefore(this.#attempt, this.tools.chance());
    this.#attempt += 1;
    this.#enter({ at: "waiting", attempt: this.#attempt, retryAt });
    this.events.closed(code);
  }

  /** Detaches the socket first, so that its close event cannot affect its successor. */
  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    this.#deadline = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (socket.readyState < 2) socket.close(1000);
  }

  #enter(state: LinkState): void {
    this.#state = state;
    this.events.state(state);
  }
}

export function socketUrl(
  path: string,
  page: Pick<Location, "protocol" | "host"> = location,
): string {
  return `${page.protocol === "https:" ? "wss" : "ws"}://${page.host}${path}`;
}
