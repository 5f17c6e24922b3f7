/**
 * Keeps this page's copy of the feed: devices, files and position. Pure.
 *
 * Applies the next change and drops an old one. Any other change is a gap and needs a pull. During
 * a pull, changes are kept and applied after the last page.
 */
import { canBe } from "./entries";
import { MAX_KEPT_CHANGES } from "../protocol/limits";
import type { Client, FeedChange, FeedPage, FileEntry, Resume } from "../protocol/wire";

export interface Listed extends FileEntry {
  /** Grows with each addition, so that "newest first" does not depend on any clock. */
  seq: number;
}

/** The result of a change, for callers that act on more than the list. */
export interface Left {
  public_id: string;
  files: Listed[];
  /** True if the owner is away and the file will be listed again when the owner is back. */
  withdrawn: boolean;
}

export type Heard = { gap: boolean; changed: boolean; left?: Left };

export function keyOf(file: { public_id: string; file_id: string }): string {
  return `${file.public_id}/${file.file_id}`;
}

export class Mirror {
  readonly clients = new Map<string, Client>();
  readonly files = new Map<string, Listed>();
  epoch = 0;
  revision = 0;
  /** True after the first complete pull. */
  loaded = false;
  /** The running pull. `missed` is set when changes were dropped in the meantime. */
  #pull: { named: Set<string> | null; kept: FeedChange[]; missed: boolean } | null = null;
  /** File keys by owner, so that removing a device visits its own files and not the whole list. */
  readonly #keys = new Map<string, Set<string>>();
  #seq = 0;

  get pulling(): boolean {
    return this.#pull !== null;
  }

  get resume(): Resume | undefined {
    return this.loaded ? { epoch: this.epoch, revision: this.revision } : undefined;
  }

  /** Starts a pull: changes are kept until its last page. Returns the data of FEED_PULL. */
  beginPull(): { epoch: number; since: number } {
    this.#pull = { named: null, kept: this.#pull?.kept ?? [], missed: false };
    return this.loaded ? { epoch: this.epoch, since: this.revision } : { epoch: 0, since: 0 };
  }

  /** Notes that changes were lost on their way, so that another pull follows this one. */
  miss(): void {
    if (this.#pull) this.#pull = { ...this.#pull, kept: [], missed: true };
  }

  /** Ends the pull together with its connection. */
  abandonPull(): void {
    this.#pull = null;
  }

  clear(): void {
    this.clients.clear();
    this.files.clear();
    this.#keys.clear();
    this.epoch = this.revision = 0;
    this.loaded = false;
    this.#pull = null;
  }

  /**
   * Applies one page. `more` is the cursor of the next one. A gap after the last page needs
   * another pull.
   */
  page(page: FeedPage): { more: string | null; gap: boolean } {
    const pull = (this.#pull ??= { named: null, kept: [], missed: false });
    if (page.mode === "SNAPSHOT") pull.named ??= new Set();
    for (const client of page.clients) {
      this.clients.set(client.public_id, client);
      pull.named?.add(client.public_id);
    }
    for (const file of page.files) {
      this.#put(file);
      pull.named?.add(keyOf(file));
    }
    for (const gone of page.gone) this.#remove(gone.public_id, gone.file_id);
    if (!page.last) return { more: page.cursor ?? null, gap: page.cursor === undefined };

    if (pull.named) this.#keepOnly(pull.named);
    this.epoch = page.epoch;
    this.revision = page.revision;
    this.loaded = true;
    this.#pull = null;
    for (const change of pull.kept) {
      if (this.hear(change).gap) return { more: null, gap: true };
    }
    return { more: null, gap: pull.missed };
  }

  hear(change: FeedChange): Heard {
    if (this.#pull) {
      if (this.#pull.kept.length >= MAX_KEPT_CHANGES) {
        this.#pull.kept = [];
        this.#pull.missed = true;
      }
      this.#pull.kept.push(change);
      return { gap: false, changed: false };
    }
    const { epoch, revision } = change.data;
    if (epoch === this.epoch && revision <= this.revision) return { gap: false, changed: false };
    if (!this.loaded || epoch !== this.epoch || revision !== this.revision + 1)
      return { gap: true, changed: false };
    this.revision = revision;
    const left = this.#apply(change);
    return left ? { gap: false, changed: true, left } : { gap: false, changed: true };
  }

  #apply(change: FeedChange): Left | undefined {
    switch (change.opcode) {
      case "CLIENT_APPROVED":
      case "CLIENT_UPDATED":
        this.clients.set(change.data.client.public_id, change.data.client);
        return undefined;
      case "CLIENT_DIS_APPROVED":
        return {
          public_id: change.data.public_id,
          files: this.#remove(change.data.public_id),
          withdrawn: false,
        };
      case "FILES_ADDED":
        for (const file of change.data.files) this.#put(file);
        return undefined;
      case "FILES_UPDATED":
        for (const { file_id, root } of change.data.files) {
          const file = this.files.get(keyOf({ public_id: change.data.public_id, file_id }));
          if (file) this.files.set(keyOf(file), { ...file, root });
        }
        return undefined;
      case "FILE_REMOVED": {
        const { public_id, file_ids } = change.data;
        return {
          public_id,
          files: file_ids.flatMap((id) => this.#remove(public_id, id)),
          withdrawn: false,
        };
      }
      case "FILES_WITHDRAWN": {
        const { public_id, file_ids, instance } = change.data;
        const ids =
          file_ids ??
          this.#of(public_id)
            .filter((file) => instance === undefined || file.instance === instance)
            .map((file) => file.file_id);
        return {
          public_id,
          files: ids.flatMap((id) => this.#remove(public_id, id)),
          withdrawn: true,
        };
      }
    }
  }

  /** Skips invalid entries and keeps the others (PROTOCOL.md 5.2). */
  #put(file: FileEntry): void {
    if (!canBe(file)) return;
    const key = keyOf(file);
    const known = this.files.get(key);
    this.files.set(key, { ...file, seq: known?.seq ?? (this.#seq += 1) });
    const keys = this.#keys.get(file.public_id);
    if (keys) keys.add(key);
    else this.#keys.set(file.public_id, new Set([key]));
  }

  /** Removes a file, or without `fileId` the device and all its files. */
  #remove(publicId: string, fileId?: string): Listed[] {
    if (fileId === undefined) this.clients.delete(publicId);
    const keys =
      fileId === undefined
        ? [...(this.#keys.get(publicId) ?? [])]
        : [keyOf({ public_id: publicId, file_id: fileId })];
    return keys.flatMap((key) => this.#drop(key) ?? []);
  }

  #drop(key: string): Listed | undefined {
    const file = this.files.get(key);
    if (!file) return undefined;
    this.files.delete(key);
    const keys = this.#keys.get(file.public_id);
    keys?.delete(key);
    if (keys?.size === 0) this.#keys.delete(file.public_id);
    return file;
  }

  #of(publicId: string): Listed[] {
    return [...(this.#keys.get(publicId) ?? [])].flatMap((key) => this.files.get(key) ?? []);
  }

  #keepOnly(named: Set<string>): void {
    for (const key of [...this.files.keys()]) if (!named.has(key)) this.#drop(key);
    for (const id of this.clients.keys()) if (!named.has(id)) this.clients.delete(id);
  }
}
