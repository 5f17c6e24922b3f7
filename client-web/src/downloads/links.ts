/**
 * Creates, lists and drops this device's links over the socket. The key of a link is drawn here
 * and kept in this browser. The hub knows only the key's hash, so a link whose key is elsewhere
 * can be dropped but not copied.
 */
import type { LinkFolder } from "../protocol/generated/LinkFolder";
import type { LinkListed } from "../protocol/generated/LinkListed";
import type { LinkRequest } from "../protocol/generated/LinkRequest";
import { MAX_FILES_A_MESSAGE } from "../protocol/limits";
import type { DeviceToRelay, FileRef, Incoming, RelayToDevice } from "../protocol/wire";
import { LinkRefused, drawLink, linkPath } from "../transfer/links";

type Heard = Incoming<RelayToDevice>;

/** The purpose of a link: to be given away, or to carry a download of this browser. */
export type Purpose = "given" | "download";

/** The files of a link to create, and its limits in time and number of downloads. */
export interface LinkWish {
  files: FileRef[];
  /** The folder to send as it is when the link is opened, instead of a list of files. */
  folder?: LinkFolder | undefined;
  /** The name of the archive. */
  name?: string | undefined;
  validMs?: number | undefined;
  uses?: number | undefined;
}

export interface Made {
  hash: string;
  url: string;
  expiresMs: number;
}

/** One link of the list. */
export interface OwnLink extends LinkListed {
  /** The link's URL, or null if its key is not in this browser. */
  url: string | null;
}

interface Kept {
  hash: string;
  url: string;
  purpose: Purpose;
  untilMs: number;
}

export interface LinksTools {
  now(): number;
  random(length: number): Uint8Array;
  /** This device's public id. */
  me: string;
  /** Sends a request, or returns null without a connection. */
  ask(message: DeviceToRelay, answered: (answer: Heard) => void, overdue: () => void): boolean;
  changed(): void;
  storage: Pick<Storage, "getItem" | "setItem">;
}

const STORED = "lanyard.links";
const MOST_KEPT = 1_000;
const OFFLINE = "OFFLINE";

export class Links {
  #listed = new Map<string, LinkListed>();
  state: "unknown" | "loading" | "known" | "failed" = "unknown";

  constructor(private readonly tools: LinksTools) {}

  /** The links, the newest first, without those that only carry a download of this browser. */
  get list(): OwnLink[] {
    const kept = new Map(this.#kept().map((one) => [one.hash, one]));
    const given = [...this.#listed.values()].filter(
      ({ link_hash, expires_ms }) =>
        kept.get(link_hash)?.purpose !== "download" && expires_ms > this.tools.now(),
    );
    return given
      .map((link) => ({ ...link, url: kept.get(link.link_hash)?.url ?? null }))
      .sort((a, b) => b.made_ms - a.made_ms);
  }

  async make(wish: LinkWish, purpose: Purpose): Promise<Made> {
    const { key, hash, binding } = drawLink((length) => this.tools.random(length), this.tools.me);
    let made: LinkListed | undefined;
    for (const data of requests(wish, { link_hash: hash, binding })) made = await this.#made(data);
    if (!made) throw new LinkRefused("BAD_MESSAGE", "There is nothing to link to.");
    const url = linkPath(key, made.name);
    this.#keep({ hash, url, purpose, untilMs: made.expires_ms });
    this.tools.changed();
    return { hash, url, expiresMs: made.expires_ms };
  }

  /**
   * Drops a link. Rejects if the hub refused or cannot be reached. A link that is already gone
   * counts as dropped.
   */
  async drop(hash: string): Promise<void> {
    const answer = await this.#ask({ opcode: "LINK_DROP", data: { link_hash: hash } });
    if (answer.opcode === "REQUEST_FAILED" && answer.data.code !== "NOT_FOUND")
      throw refusal(answer);
    this.#gone(hash);
  }

  /** Asks for the whole list. */
  async load(): Promise<void> {
    this.state = "loading";
    this.tools.changed();
    const found = new Map<string, LinkListed>();
    try {
      let cursor: string | undefined;
      do {
        const answer = await this.#ask({
          opcode: "LINKS_PULL",
          data: cursor === undefined ? {} : { cursor },
        });
        if (answer.opcode !== "LINKS_PAGE") throw refusal(answer);
        for (const link of answer.data.links) found.set(link.link_hash, link);
        cursor = answer.data.last ? undefined : answer.data.cursor;
      } while (cursor !== undefined);
      this.#listed = found;
      this.state = "known";
    } catch {
      this.state = "failed";
    }
    this.tools.changed();
  }

  /** Handles a message about links. Returns false for all other messages. */
  hear(message: Heard): boolean {
    if (message.opcode === "LINK_MADE") {
      const { link } = message.data;
      this.#listed.set(link.link_hash, link);
      this.tools.changed();
      return true;
    }
    if (message.opcode !== "LINK_DROPPED") return false;
    this.#gone(message.data.link_hash);
    return true;
  }

  #gone(hash: string): void {
    this.#listed.delete(hash);
    this.#store(this.#kept().filter((one) => one.hash !== hash));
    this.tools.changed();
  }

  async #made(data: LinkRequest): Promise<LinkListed> {
    const answer = await this.#ask({ opcode: "LINK_REQUEST", data });
    if (answer.opcode !== "LINK_MADE") throw refusal(answer);
    return answer.data.link;
  }

  #ask(message: DeviceToRelay): Promise<Heard> {
    return new Promise((resolve, reject) => {
      const overdue = () => reject(new LinkRefused(OFFLINE, "The hub did not answer."));
      if (!this.tools.ask(message, resolve, overdue))
        reject(new LinkRefused(OFFLINE, "The hub is away."));
    });
  }

  #kept(): Kept[] {
    try {
      const kept: unknown = JSON.parse(this.tools.storage.getItem(STORED) ?? "[]");
      return Array.isArray(kept) ? kept.filter(isKept) : [];
    } catch {
      return [];
    }
  }

  #keep(one: Kept): void {
    // A link without a fixed end lives on while it is used. A week after its expected end its key
    // is dropped.
    const alive = this.#kept().filter(({ untilMs }) => untilMs + 7 * 86_400_000 > this.tools.now());
    this.#store([...alive, one].slice(-MOST_KEPT));
  }

  #store(kept: Kept[]): void {
    try {
      this.tools.storage.setItem(STORED, JSON.stringify(kept));
    } catch {
      // Without storage a link can be copied only until the page is closed.
    }
  }
}

function isKept(one: unknown): one is Kept {
  const { hash, url, purpose, untilMs } = (one ?? {}) as Partial<Kept>;
  return (
    typeof hash === "string" &&
    typeof url === "string" &&
    url.startsWith("/d/") &&
    (purpose === "given" || purpose === "download") &&
    typeof untilMs === "number"
  );
}

/** Splits a long list of files into several requests for one link. */
function requests(
  { files, folder, name, validMs, uses }: LinkWish,
  drawn: Pick<LinkRequest, "link_hash" | "binding">,
): LinkRequest[] {
  const more = {
    ...drawn,
    ...(name === undefined ? {} : { name }),
    ...(validMs === undefined ? {} : { valid_ms: validMs }),
    ...(uses === undefined ? {} : { uses }),
  };
  if (folder) return [{ folder, ...more }];
  const parts: LinkRequest[] = [];
  for (let at = 0; at < files.length; at += MAX_FILES_A_MESSAGE) {
    const some = files
      .slice(at, at + MAX_FILES_A_MESSAGE)
      .map(({ public_id, file_id }) => ({ public_id, file_id }));
    parts.push({ files: some, ...more });
  }
  return parts;
}

function refusal(answer: Heard): LinkRefused {
  if (answer.opcode === "REQUEST_FAILED")
    return new LinkRefused(answer.data.code, answer.data.message);
  return new LinkRefused(OFFLINE, "The hub did not answer.");
}
