/**
 * Runs the device's page for a script: the real driver between a socket and a clock of the test.
 */
import { vi } from "vitest";
import { Driver } from "../driver";
import { isOver } from "../downloads/downloads";
import { type Door, remember } from "../identity/memory";
import {
  NO_CHANNEL,
  codeOf,
  hubText,
  keysFrom,
  masterCommitOf,
  requestIdOf,
  sign,
} from "../identity/proof";
import { type Json, type Names, isObject } from "./pattern";

const HUB_SEED = new Uint8Array(32).fill(2);
const HUB_KEY = keysFrom(HUB_SEED).publicKey;
const KEYS = keysFrom(new Uint8Array(32).fill(1));
const INSTANCE = "11".repeat(16);
const MASTER_NONCE = "0c".repeat(32);
/** A wait longer than the page's delay before it draws the list again. */
const DRAWN_MS = 100;

type Frame = { opcode: string; data: { [key: string]: Json }; ref?: string };

class FakeSocket {
  static last: FakeSocket | null = null;
  static say: (frame: Frame) => void;
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;

  constructor() {
    FakeSocket.last = this;
  }

  send(text: string): void {
    FakeSocket.say(JSON.parse(text) as Frame);
  }

  close(): void {
    this.readyState = 3;
  }
}

export class Page {
  readonly names: Names = new Map<string, Json>([
    ["me", KEYS.publicId],
    ["instance", INSTANCE],
    ["hub_key", HUB_KEY],
    ["master_nonce", MASTER_NONCE],
  ]);
  readonly #driver: Driver;
  readonly #end = new AbortController();
  #sent: Json[] = [];
  #challenge: Frame["data"] = {};
  #relayNonce = "";
  #name = "";
  #timePasses = false;

  constructor(door: Door) {
    vi.useFakeTimers({
      now: 1_000_000,
      toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "Date"],
    });
    vi.stubGlobal("WebSocket", FakeSocket);
    vi.stubGlobal("fetch", (_url: string, { signal }: { signal: AbortSignal }) => {
      return new Promise((_, reject) =>
        signal.addEventListener("abort", () => reject(new Error("aborted"))),
      );
    });
    vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(() => undefined);
    vi.spyOn(console, "warn").mockImplementation((...what) => {
      throw new Error(what.join(" "));
    });
    FakeSocket.last = null;
    FakeSocket.say = (frame) => this.#heard(frame);
    localStorage.clear();
    sessionStorage.clear();
    const known =
      door === "approved"
        ? { hubKey: HUB_KEY, hubName: "Kitchen" }
        : { hubKey: null, hubName: null };
    remember(localStorage, { door, name: "Laptop", ...known });
    this.#driver = new Driver(KEYS, { id: INSTANCE, reloaded: false }, this.#end.signal, null);
  }

  close(): void {
    this.#end.abort();
    vi.useRealTimers();
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  }

  /** Returns the messages sent since the last call. */
  async sent(): Promise<Json[]> {
    await vi.advanceTimersByTimeAsync(0);
    return this.#sent.splice(0);
  }

  // Events for the page.

  hear(frame: Json): void {
    const { opcode, data } = frame as Frame;
    if (opcode === "CHALLENGE") this.#challenge = data;
    if (opcode === "CHALLENGE" || opcode === "APPROVAL_RESTART")
      this.#relayNonce = String(data.nonce);
    FakeSocket.last?.onmessage?.({ data: JSON.stringify(frame) });
  }

  line(line: Json): void {
    const socket = FakeSocket.last;
    if (isObject(line)) {
      if (socket) socket.readyState = 3;
      socket?.onclose?.({ code: Number(line.closes) });
      return;
    }
    if (this.#line() !== "opening" || !socket)
      throw new Error(`it does not try to connect, its line is ${this.#line()}`);
    socket.readyState = 1;
    socket.onopen?.();
  }

  async wait(ms: number): Promise<void> {
    this.#timePasses = true;
    await vi.advanceTimersByTimeAsync(ms);
    this.#timePasses = false;
  }

  person(action: Json): void {
    const [verb, what] = Object.entries(action as { [key: string]: Json })[0] ?? ["", null];
    switch (verb) {
      case "start":
        return this.#driver.start();
      case "share":
        return this.#driver.shareFiles((what as { [key: string]: Json }[]).map(fileOf));
      case "unshare":
        return this.#driver.stopSharing((what as string[]).map((path) => this.#item(path).file_id));
      case "rename":
        return this.#driver.rename(String(what));
      case "download": {
        const item = this.#item(String(what));
        return this.#driver.download([item], item.name, item.key);
      }
      case "cancel":
        return this.#driver.cancel(
          this.#driver.store.downloads.find((one) => one.title === what && !isOver(one))?.id ?? "",
        );
      default:
        throw new Error(`a person does not ${verb}`);
    }
  }

  #item(path: string) {
    const found = this.#driver.store.files.find((item) => item.path === path);
    if (!found) throw new Error(`${path} is not to be seen`);
    return found;
  }

  // Messages of the page.

  #heard(frame: Frame): void {
    // PING and PONG belong to the socket and are not part of a script.
    if (frame.opcode === "PING" && this.#timePasses) {
      const socket = FakeSocket.last;
      queueMicrotask(() =>
        socket?.onmessage?.({ data: JSON.stringify({ opcode: "PONG", data: {} }) }),
      );
      return;
    }
    const { data } = frame;
    if (frame.opcode === "CLIENT_REGISTER") this.#registers(data);
    if (frame.opcode === "CLIENT_REGISTER" || frame.opcode === "APPROVAL_COMMIT")
      this.#knocks(String(data.commit));
    if (frame.opcode === "APPROVAL_REVEAL") {
      this.names.set(
        "code",
        codeOf(
          HUB_KEY,
          KEYS.publicKey,
          String(this.names.get("request")),
          String(data.reveal),
          MASTER_NONCE,
        ),
      );
    }
    this.#sent.push(frame);
  }

  /** Proves the hub to the page, as the relay would. */
  #registers(register: Frame["data"]): void {
    this.#name = String(register.name);
    const text = hubText(
      {
        bootId: String(this.#challenge.boot_id),
        relayNonce: String(this.#challenge.nonce),
        deviceNonce: String(register.nonce),
        hubKey: HUB_KEY,
        deviceKey: KEYS.publicKey,
        authority: location.host.toLowerCase(),
        channel: NO_CHANNEL,
        relayEphemeral: String(this.#challenge.ephemeral_key),
        deviceEphemeral: String(register.ephemeral_key),
      },
      KEYS.publicId,
    );
    this.names.set("hub_signature", sign(HUB_SEED, text));
  }

  /** Computes what the hub knows of a join request. */
  #knocks(commit: string): void {
    const request = requestIdOf(KEYS.publicKey, commit, this.#relayNonce, this.#name);
    this.names.set("request", request);
    this.names.set("master_commit", masterCommitOf(HUB_KEY, request, MASTER_NONCE));
  }

  // State of the screen.

  /** Lets the page draw, then reads a value. */
  async drawn(): Promise<void> {
    await this.wait(DRAWN_MS);
  }

  shows(what: string): Json {
    const { store } = this.#driver;
    switch (what) {
      case "place":
        return this.#place();
      case "line":
        return this.#line();
      case "code":
        return store.screen.at === "knocking" ? store.screen.code : null;
      case "devices":
        return store.clients.map(({ name }) => name).sort();
      case "online":
        return store.clients
          .filter(({ public_id }) => store.online.has(public_id))
          .map(({ name }) => name)
          .sort();
      case "files":
        return store.files
          .filter(({ listed, gone }) => listed && gone === null)
          .map(({ path }) => path)
          .sort();
      case "mine":
        return Object.fromEntries(
          store.files.flatMap(({ path, offer }) =>
            offer === null || offer === "leaving" ? [] : [[path, offer]],
          ),
        );
      case "transfers":
        return Object.fromEntries(
          [...store.downloads]
            .reverse()
            .map(({ title, state }) => [
              title,
              state === "queued" || state === "starting" ? "running" : state,
            ]),
        );
      case "uploads":
        return store.owes;
      default:
        throw new Error(`nothing shows ${what}`);
    }
  }

  #line(): string {
    const { at } = this.#driver.store.link;
    if (at === "open") return "open";
    return at === "connecting" ? "opening" : "down";
  }

  #place(): string {
    const { screen, link, registered, entered, loaded, hubReady } = this.#driver.store;
    switch (screen.at) {
      case "knocking":
        if (!registered) return "offline";
        if (screen.closed) return "closed";
        return screen.code === null ? "knocking" : "digits";
      case "inside":
        if (link.at !== "open" || !registered) return "offline";
        if (!entered) return "host away";
        if (!loaded) return "entering";
        return hubReady ? "inside" : "host away";
      case "stopped":
        return {
          superseded: "superseded",
          version: "another version",
          "refused-proof": "rejected",
          protocol: "rejected",
          impostor: "another hub",
          "not-opened": "not opened",
        }[screen.why];
      case "key-mismatch":
        return "another hub";
      case "door":
      case "refused":
      case "starting":
      case "unable":
        return screen.at;
    }
  }
}

/** Creates a file as a file picker returns it. */
function fileOf({ path, size, modified_ms }: { [key: string]: Json }): File {
  return new File([new Uint8Array(Number(size))], String(path), {
    lastModified: Number(modified_ms),
  });
}
