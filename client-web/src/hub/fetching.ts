/** Downloading as it happens: links are made, the browser fetches them, two at a time, and the relay says how far it is. */
import { uuidV4 } from "../identity/bytes";
import type { Signer } from "../identity/signer";
import { sentence } from "../lib/words";
import { MAX_LINK_FILES } from "../protocol/limits";
import type { FileRef, LinkMade, TransferProgress } from "../protocol/wire";
import { LinkRefused, copyText, dropLink, makeLink, startDownload } from "../transfer/links";
import type { FileItem } from "./catalogue";
import { type Download, Downloads } from "./downloads";
import type { LinkShown, Notice } from "./store.svelte";

export interface FetchingTools {
  now(): number;
  signer(): Signer | null;
  changed(): void;
  notify(notice: Omit<Notice, "id">): void;
  say(text: string): void;
  showLink(link: LinkShown): void;
  play(link: LinkShown): void;
  origin: string;
  signal: AbortSignal;
}

/** Why a download has to wait for a connection rather than fail. */
const NO_CONNECTION = "OFFLINE";

export class Fetching {
  readonly downloads = new Downloads();
  /** Links already made for one file: a version never changes under its id. */
  #links = new Map<string, LinkMade>();

  constructor(private readonly tools: FetchingTools) {}

  download(items: FileItem[], title: string, subject: string): void {
    if (items.length === 0 || this.#tooMany(items)) return;
    const files = items.map(({ owner, file_id }) => ({ public_id: owner, file_id }));
    const size = items.reduce((sum, item) => sum + item.size, 0);
    const zip = items.length > 1 || subject !== items[0]?.key;
    this.downloads.add({ id: uuidV4(), subject, title, files, zip, size }, this.tools.now());
    this.next();
  }

  /** Starts whoever's turn it is. */
  next(): void {
    if (this.tools.signer() !== null) {
      for (const download of this.downloads.takeTurns(this.tools.now())) void this.#start(download);
    }
    this.tools.changed();
  }

  progress(progress: TransferProgress): void {
    const before = this.downloads.list.find(({ link }) => link === progress.link)?.state;
    if (!this.downloads.progress(progress, this.tools.now())) return;
    const one = this.downloads.list.find(({ link }) => link === progress.link);
    if (one && before !== "done" && one.state === "done") this.tools.say(`${one.title}, saved`);
    this.next();
  }

  cutOff(): void {
    this.downloads.cutOff(this.tools.now());
    this.tools.changed();
  }

  cancel(id: string): void {
    const cancelled = this.downloads.cancel(id, this.tools.now());
    const signer = this.tools.signer();
    if (cancelled?.link && signer) {
      this.#forget(cancelled.link);
      dropLink(signer, cancelled.link, this.tools.signal).catch(() => undefined);
    }
    this.next();
  }

  async copyLink(items: FileItem[], title: string): Promise<void> {
    const link = await this.#linkOf(items, title);
    if (!link) return;
    const url = this.tools.origin + link.url;
    if (copyText(url)) this.tools.notify({ tone: "ok", title: "Link copied", text: "It works for anyone on this network, for 24 hours after its last use." });
    else this.tools.showLink({ title, url });
  }

  async play(item: FileItem): Promise<void> {
    const link = await this.#linkOf([item], item.name);
    if (link) this.tools.play({ title: item.name, url: link.url });
  }

  async #start(download: Download): Promise<void> {
    try {
      const link = await this.#make(download.files, download.zip ? `${download.title}.zip` : undefined);
      if (!this.downloads.linked(download.id, link.link, link.url)) return;
      const current = this.downloads.list.find(({ id }) => id === download.id);
      if (current?.state !== "starting") return;
      startDownload(link.url);
      this.tools.changed();
    } catch (error) {
      this.downloads.fail(download.id, sentence(codeOf(error), messageOf(error)), this.tools.now());
      this.next();
    }
  }

  /** A link of its own for each download, so that cancelling one ends no other. */
  #make(files: FileRef[], name: string | undefined): Promise<LinkMade> {
    const signer = this.tools.signer();
    if (signer === null) return Promise.reject(new LinkRefused(NO_CONNECTION, "The hub is away."));
    return makeLink(signer, files, name, this.tools.signal);
  }

  async #linkOf(items: FileItem[], title: string): Promise<LinkMade | null> {
    const [first] = items;
    if (!first || this.#tooMany(items)) return null;
    const single = items.length === 1 && title === first.name;
    const known = single ? this.#links.get(first.key) : undefined;
    if (known && known.expires_ms > this.tools.now()) return known;
    try {
      const files = items.map(({ owner, file_id }) => ({ public_id: owner, file_id }));
      const made = await this.#make(files, single ? undefined : `${title}.zip`);
      if (single) this.#links.set(first.key, made);
      return made;
    } catch (error) {
      this.tools.notify({ tone: "error", title: `No link for ${title}`, text: sentence(codeOf(error), messageOf(error)) });
      return null;
    }
  }

  #forget(link: string): void {
    for (const [key, made] of this.#links) if (made.link === link) this.#links.delete(key);
  }

  #tooMany(items: FileItem[]): boolean {
    if (items.length <= MAX_LINK_FILES) return false;
    this.tools.notify({ tone: "error", title: "That is more than one download holds", text: "Choose at most 10,000 files at a time." });
    return true;
  }
}

function codeOf(error: unknown): string {
  return error instanceof LinkRefused ? error.code : NO_CONNECTION;
}

function messageOf(error: unknown): string {
  return error instanceof LinkRefused ? error.message : "The hub could not be reached.";
}
