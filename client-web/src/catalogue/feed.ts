/**
 * Keeps a mirror true over one connection: pulls pages, closes gaps, follows presence. The device's
 * page and the console use the same one.
 */
import { PULL_RETRY_MS, REQUEST_TIMEOUT_MS } from "../protocol/limits";
import type {
  FeedChange,
  FeedPage,
  MasterToConsole,
  RelayToDevice,
  Resume,
} from "../protocol/wire";
import { type Left, Mirror } from "./mirror";

export type FeedMessage = Extract<RelayToDevice | MasterToConsole, { opcode: string }>;

export interface FeedTools {
  /** Sends FEED_PULL and returns the ref of the request, or null without a connection. */
  pull(ask: { epoch: number; since: number; cursor?: string }): string | null;
  changed(): void;
  left(left: Left): void;
  /** Called when a pull is complete and the list is whole. */
  complete(): void;
}

/** The shortest wait before a failed pull is sent again, whatever the hub says. */
const MIN_RETRY_MS = 200;

/** Other feeds are not followed. */
const isCatalogue = ({ feed = "catalogue" }: { feed?: string }): boolean => feed === "catalogue";

export class Feed {
  readonly mirror = new Mirror();
  readonly online = new Set<string>();
  #ref: string | null = null;
  #ask = { epoch: 0, since: 0 };
  #due: number | null = null;

  constructor(
    private readonly tools: FeedTools,
    private readonly now: () => number,
  ) {}

  /**
   * Starts the feed on a new connection. If the master is connected, it sends the first page
   * unasked.
   */
  expect(): void {
    this.#ask = this.mirror.beginPull();
    this.#ref = null;
    this.#due = this.now() + REQUEST_TIMEOUT_MS;
  }

  pull(): void {
    this.#ask = this.mirror.beginPull();
    this.#send();
  }

  disconnected(): void {
    this.#abandon();
    this.online.clear();
  }

  /** Ends a pull that will not be answered any more. */
  #abandon(): void {
    this.mirror.abandonPull();
    this.#ref = null;
    this.#due = null;
  }

  clear(): void {
    this.disconnected();
    this.mirror.clear();
  }

  tick(): void {
    if (this.#due !== null && this.now() >= this.#due) this.pull();
  }

  /** Handles a message of the feed. Returns false for all other messages. */
  hear(message: FeedMessage & { ref?: string }): boolean {
    switch (message.opcode) {
      case "FEED_PAGE":
        if (!isCatalogue(message.data)) return true;
        this.#page(message.data, message.ref);
        return true;
      case "FILES_ADDED":
      case "FILES_UPDATED":
      case "FILE_REMOVED":
      case "FILES_WITHDRAWN":
      case "CLIENT_APPROVED":
      case "CLIENT_DIS_APPROVED":
      case "CLIENT_UPDATED":
        this.#change(message);
        return true;
      case "FEED_DIRTY":
        if (!isCatalogue(message.data)) return true;
        // One pull at a time, or a hub that repeats this message would be asked again each time.
        if (this.mirror.pulling) this.mirror.miss();
        else this.pull();
        return true;
      case "HUB_READY":
        if (this.#isAt(message.data)) this.tools.complete();
        else this.pull();
        return false;
      case "SERVER_NOT_READY":
        // HUB_READY starts the next pull.
        this.#abandon();
        return false;
      case "PRESENCE":
        this.online.clear();
        for (const id of message.data.online) this.online.add(id);
        this.tools.changed();
        return true;
      case "CLIENT_RECONNECTED":
        this.online.add(message.data.public_id);
        this.tools.changed();
        return true;
      case "CLIENT_DISCONNECTED":
        this.online.delete(message.data.public_id);
        this.tools.changed();
        return true;
      case "REQUEST_FAILED":
        if (message.ref === undefined || message.ref !== this.#ref) return false;
        // The master was away or has forgotten this cursor. The next pull starts at the list's
        // position.
        this.#ref = null;
        this.#due =
          this.now() + Math.max(MIN_RETRY_MS, message.data.retry_after_ms ?? PULL_RETRY_MS);
        return true;
      default:
        return false;
    }
  }

  #change(change: FeedChange): void {
    const heard = this.mirror.hear(change);
    if (heard.gap) this.pull();
    if (heard.left) this.tools.left(heard.left);
    if (heard.changed) this.tools.changed();
  }

  #page(page: FeedPage, ref: string | undefined): void {
    // A pull is answered by its own pages. Other pages are older than the pull.
    if (this.#ref !== null && ref !== this.#ref) return;
    if (this.#ref === null && ref !== undefined) return;
    if (!this.mirror.pulling && !this.#fits(page)) return;
    if (this.mirror.pulling && !follows(page, this.#ask)) {
      // Changes since another position answer an earlier session of this tab, or a copy of the tab.
      this.pull();
      return;
    }
    this.#due = null;
    const { more, gap } = this.mirror.page(page);
    this.tools.changed();
    if (gap) this.pull();
    else if (more !== null) this.#send(more);
    else {
      this.#ref = null;
      this.tools.complete();
    }
  }

  /** Returns true if the list is whole and at this position. */
  #isAt({ epoch, revision }: Resume): boolean {
    const { loaded, pulling } = this.mirror;
    return loaded && !pulling && epoch === this.mirror.epoch && revision === this.mirror.revision;
  }

  /** Applies a page that no pull asked for, for instance after the master's return. */
  #fits(page: FeedPage): boolean {
    return (
      follows(page, { epoch: this.mirror.epoch, since: this.mirror.revision }) &&
      (page.mode === "SNAPSHOT" || page.revision >= this.mirror.revision)
    );
  }

  #send(cursor?: string): void {
    this.#ref = this.tools.pull(cursor === undefined ? this.#ask : { ...this.#ask, cursor });
    this.#due = this.#ref === null ? null : this.now() + REQUEST_TIMEOUT_MS;
  }
}

/** Returns true if the page continues from this position. */
function follows(page: FeedPage, from: { epoch: number; since: number }): boolean {
  if (page.mode === "SNAPSHOT") return true;
  if (page.epoch !== from.epoch) return false;
  return page.mode === "UP_TO_DATE"
    ? page.revision === from.since
    : (page.since ?? 0) <= from.since;
}
