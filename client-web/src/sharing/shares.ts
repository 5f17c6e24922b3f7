/**
 * Keeps the offers of this tab and their states. Pure, apart from the File handles, which are only
 * held. A handle is the right to read a file, and a reload loses it.
 */
import { MAX_FILES_A_MESSAGE, MAX_LABEL_BYTES, MAX_LIST_BYTES } from "../protocol/limits";
import type { EntryKind, NewFile } from "../protocol/wire";
import type { Version } from "../identity/proof";
import { nameOf, travelPath } from "../transfer/paths";
import type { Gathered } from "../transfer/gather";
import type { Listed } from "../catalogue/mirror";

export type OfferState =
  /** Being added to the list. */
  | "syncing"
  | "shared"
  /** Refused by the hub, or unanswered for ten seconds. */
  | "failed"
  /** Known from before a reload, and unreadable without its handle. */
  | "lost"
  /** Removed by the person, and not yet confirmed by the hub. */
  | "leaving";

export interface Offer extends NewFile {
  state: OfferState;
  problem?: string;
  /** True if the offer was announced on the current connection. */
  asked: boolean;
}

export interface Added {
  fresh: Offer[];
  duplicates: number;
  reclaimed: number;
  skipped: string[];
}

export class Shares {
  readonly offers = new Map<string, Offer>();
  readonly #handles = new Map<string, File>();
  readonly #byPath = new Map<string, string>();

  /**
   * Restores the offers from before a reload. They are unreadable until the files are picked
   * again.
   */
  restore(known: NewFile[]): void {
    for (const file of known) this.#keep({ ...file, state: "lost", asked: false });
  }

  /** Returns the offers to keep for a reload. */
  get lasting(): NewFile[] {
    return [...this.offers.values()]
      .filter(({ state }) => state !== "leaving" && state !== "failed")
      .map(announced);
  }

  handle(fileId: string): File | undefined {
    return this.#handles.get(fileId);
  }

  /**
   * Returns an offer under this path that differs from `file`: another version, or another file of
   * the same name.
   */
  rival(path: string, file: File): Offer | undefined {
    const id = this.#byPath.get(path);
    const offer = id === undefined ? undefined : this.offers.get(id);
    return offer && offer.state !== "lost" && !same(offer, path, file) ? offer : undefined;
  }

  add(gathered: Gathered, idOf: (version: Version) => string): Added {
    const added: Added = {
      fresh: [],
      duplicates: 0,
      reclaimed: 0,
      skipped: [...gathered.unreadable],
    };
    for (const { file, path: raw } of gathered.picked) {
      const path = travelPath(raw);
      if (path === null) {
        added.skipped.push(raw);
        continue;
      }
      const known = this.#known(path, file);
      if (known && known.state !== "lost" && known.state !== "failed") {
        added.duplicates += 1;
        continue;
      }
      if (known?.state === "lost") added.reclaimed += 1;
      const offer: Offer = known
        ? { ...known, state: "syncing", asked: false, problem: undefined }
        : {
            ...described(path, file),
            file_id: idOf({ ...described(path, file), kind: "file" }),
            state: "syncing",
            asked: false,
          };
      this.#handles.set(offer.file_id, file);
      this.#keep(offer);
      added.fresh.push(offer);
    }
    for (const raw of gathered.emptyFolders) {
      const path = travelPath(raw);
      if (path === null || this.#byPath.has(path)) continue;
      const folder = { path, size: 0, modified_ms: 0, kind: "folder" } as const;
      const offer: Offer = {
        ...folder,
        file_id: idOf(folder),
        media_type: "",
        state: "syncing",
        asked: false,
      };
      this.#keep(offer);
      added.fresh.push(offer);
    }
    return added;
  }

  set(fileId: string, change: Partial<Offer>): void {
    const offer = this.offers.get(fileId);
    if (offer) this.offers.set(fileId, { ...offer, ...change });
  }

  drop(fileId: string): void {
    const offer = this.offers.get(fileId);
    if (offer && this.#byPath.get(offer.path) === fileId) this.#byPath.delete(offer.path);
    this.offers.delete(fileId);
    this.#handles.delete(fileId);
  }

  /** Marks an offer whose bytes can no longer be read. Its row stays. */
  lose(fileId: string, problem?: string): void {
    this.#handles.delete(fileId);
    this.set(fileId, { state: "lost", problem, asked: false });
  }

  disconnected(): void {
    for (const [id, offer] of this.offers)
      if (offer.asked) this.offers.set(id, { ...offer, asked: false });
  }

  /**
   * Compares the offers with this instance's files on the list. Returns the messages that make
   * both agree.
   */
  reconcile(
    listed: Listed[],
    instance: string,
  ): { announce: Offer[]; withdraw: string[]; remove: string[] } {
    const mine = new Map(
      listed.filter((file) => file.instance === instance).map((file) => [file.file_id, file]),
    );
    const withdraw: string[] = [];
    const remove: string[] = [];
    for (const file of mine.values()) {
      const offer = this.offers.get(file.file_id);
      if (offer?.state === "leaving") remove.push(file.file_id);
      else if (this.#readable(file.file_id, file.kind))
        this.set(file.file_id, { state: "shared", problem: undefined });
      else {
        if (!offer) this.#keep({ ...announced(file), state: "lost", asked: false });
        withdraw.push(file.file_id);
      }
    }
    const announce: Offer[] = [];
    for (const [id, offer] of this.offers) {
      if (mine.has(id)) continue;
      if (offer.state === "leaving" && !offer.asked) this.drop(id);
      if (
        (offer.state === "syncing" || offer.state === "shared") &&
        !offer.asked &&
        this.#readable(id, offer.kind)
      ) {
        this.set(id, { state: "syncing" });
        announce.push(offer);
      }
    }
    return { announce, withdraw, remove };
  }

  #readable(fileId: string, kind: EntryKind | undefined): boolean {
    return (
      this.#handles.has(fileId) || (kind === "folder" && this.offers.get(fileId)?.state !== "lost")
    );
  }

  /**
   * Finds the same version under the same path. For a lost offer the new path may lack the folder.
   */
  #known(path: string, file: File): Offer | undefined {
    const id = this.#byPath.get(path);
    const exact = id === undefined ? undefined : this.offers.get(id);
    if (exact && same(exact, path, file)) return exact;
    if (path.includes("/")) return undefined;
    for (const offer of this.offers.values()) {
      if (offer.state === "lost" && nameOf(offer.path) === path && same(offer, offer.path, file))
        return offer;
    }
    return undefined;
  }

  #keep(offer: Offer): void {
    this.offers.set(offer.file_id, offer);
    this.#byPath.set(offer.path, offer.file_id);
  }
}

export function announced({
  file_id,
  path,
  size,
  modified_ms,
  media_type,
  kind,
}: NewFile): NewFile {
  return { file_id, path, size, modified_ms, media_type, ...(kind === "folder" ? { kind } : {}) };
}

/** Splits offers into messages of at most 512 entries and 192 KiB. */
export function batches(offers: NewFile[]): NewFile[][] {
  const all: NewFile[][] = [];
  let current: NewFile[] = [];
  let bytes = 0;
  for (const offer of offers) {
    const file = announced(offer);
    const cost = utf8.encode(JSON.stringify(file)).length + 1;
    if (current.length === MAX_FILES_A_MESSAGE || bytes + cost > MAX_LIST_BYTES) {
      all.push(current);
      current = [];
      bytes = 0;
    }
    current.push(file);
    bytes += cost;
  }
  if (current.length > 0) all.push(current);
  return all;
}

const utf8 = new TextEncoder();

function described(path: string, file: File): Omit<NewFile, "file_id"> {
  const type =
    /^[\x20-\x7e]*$/.test(file.type) && file.type.length <= MAX_LABEL_BYTES ? file.type : "";
  return {
    path,
    size: file.size,
    modified_ms: Math.max(0, Math.floor(file.lastModified)),
    media_type: type,
  };
}

function same(offer: Offer, path: string, file: File): boolean {
  return (
    offer.path === path &&
    offer.size === file.size &&
    offer.modified_ms === Math.max(0, Math.floor(file.lastModified))
  );
}
