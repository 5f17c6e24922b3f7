/**
 * Runs downloads: creates links, has the browser fetch two at a time, and follows the relay's
 * progress.
 */
import { uuidV4 } from "../identity/bytes";
import { plural } from "../lib/format";
import { sentence } from "../lib/words";
import { MAX_LINK_FILES } from "../protocol/limits";
import type { LinkFolder } from "../protocol/generated/LinkFolder";
import type { TransferProgress } from "../protocol/wire";
import { LinkRefused, copyText, startDownload } from "../transfer/links";
import type { FileItem } from "../catalogue/catalogue";
import { type Download, Downloads } from "./downloads";
import type { Links, Made } from "./links";
import type { LinkShown, Notice } from "../store.svelte";

export interface FetchingTools {
  now(): number;
  /** Returns true if the hub can be reached. */
  ready(): boolean;
  links: Links;
  changed(): void;
  notify(notice: Omit<Notice, "id">): void;
  say(text: string): void;
  showLink(link: LinkShown): void;
  play(link: LinkShown): void;
  origin: string;
}

/**
 * Limits a link in time or in number of downloads. Without limits it ends after a day without use.
 */
export interface LinkLimits {
  validMs?: number | undefined;
  uses?: number | undefined;
}

/** The reason for which a download waits for a connection instead of failing. */
const NO_CONNECTION = "OFFLINE";

export class Fetching {
  readonly downloads = new Downloads();
  /** Links already created for one file. A file id always means the same version. */
  #made = new Map<string, Made>();

  constructor(private readonly tools: FetchingTools) {}

  download(items: FileItem[], title: string, subject: string, folder?: LinkFolder): void {
    if (items.length === 0 || (!folder && this.#tooMany(items))) return;
    const files = items.map(({ owner, file_id }) => ({ public_id: owner, file_id }));
    const size = items.reduce((sum, item) => sum + item.size, 0);
    const zip = items.length > 1 || subject !== items[0]?.key;
    this.downloads.add(
      { id: uuidV4(), subject, title, files, zip, size, ...(folder ? { folder } : {}) },
      this.tools.now(),
    );
    this.next();
  }

  /** Starts the downloads whose turn it is. */
  next(): void {
    if (this.tools.ready()) {
      for (const download of this.downloads.takeTurns(this.tools.now())) void this.#start(download);
    }
    this.tools.changed();
  }

  progress(progress: TransferProgress): void {
    const before = this.downloads.list.find(({ link }) => link === progress.link_hash)?.state;
    if (!this.downloads.progress(progress, this.tools.now())) return;
    const one = this.downloads.list.find(({ link }) => link === progress.link_hash);
    if (one && before !== "done" && one.state === "done") this.tools.say(`${one.title}, saved`);
    this.next();
  }

  cutOff(): void {
    this.downloads.cutOff(this.tools.now());
    this.tools.changed();
  }

  cancel(id: string): void {
    const cancelled = this.downloads.cancel(id, this.tools.now());
    if (cancelled?.link) this.tools.links.drop(cancelled.link).catch(() => undefined);
    this.next();
  }

  async copyLink(
    items: FileItem[],
    title: string,
    folder?: LinkFolder,
    limits: LinkLimits = {},
  ): Promise<void> {
    const link = await this.#linkOf(items, title, folder, limits);
    if (!link) return;
    const url = this.tools.origin + link.url;
    if (copyText(url))
      this.tools.notify({ tone: "ok", title: "Link copied", text: promise(limits) });
    else this.tools.showLink({ title, url });
  }

  async play(item: FileItem): Promise<void> {
    const link = await this.#linkOf([item], item.name, undefined, {});
    if (link) this.tools.play({ title: item.name, url: link.url });
  }

  /** Handles the end of the link with this hash, whoever ended it. */
  dropped(hash: string): void {
    for (const [key, made] of this.#made) if (made.hash === hash) this.#made.delete(key);
  }

  /** Creates a link for each download, so that cancelling one download does not end another. */
  async #start(download: Download): Promise<void> {
    try {
      const { files, folder, title } = download;
      const link = await this.tools.links.make(
        { files, folder, name: download.zip ? `${title}.zip` : undefined },
        "download",
      );
      if (!this.downloads.linked(download.id, link.hash, link.url)) return;
      const current = this.downloads.list.find(({ id }) => id === download.id);
      if (current?.state !== "starting") return;
      startDownload(link.url);
      this.tools.changed();
    } catch (error) {
      this.downloads.fail(download.id, sentence(codeOf(error), messageOf(error)), this.tools.now());
      this.next();
    }
  }

  async #linkOf(
    items: FileItem[],
    title: string,
    folder: LinkFolder | undefined,
    limits: LinkLimits,
  ): Promise<Made | null> {
    const [first] = items;
    if (!first || (!folder && this.#tooMany(items))) return null;
    const single = !folder && items.length === 1 && title === first.name;
    const plain = limits.validMs === undefined && limits.uses === undefined;
    const known = single && plain ? this.#made.get(first.key) : undefined;
    if (known && known.expiresMs > this.tools.now()) return known;
    try {
      const files = items.map(({ owner, file_id }) => ({ public_id: owner, file_id }));
      const made = await this.tools.links.make(
        { files, folder, name: single ? undefined : `${title}.zip`, ...limits },
        "given",
      );
      if (single && plain) this.#made.set(first.key, made);
      return made;
    } catch (error) {
      this.tools.notify({
        tone: "error",
        title: `No link for ${title}`,
        text: sentence(codeOf(error), messageOf(error)),
      });
      return null;
    }
  }

  #tooMany(items: FileItem[]): boolean {
    if (items.length <= MAX_LINK_FILES) return false;
    this.tools.notify({
      tone: "error",
      title: "Too many files for one zip",
      text: `Pick up to ${plural(MAX_LINK_FILES, "file")}, for example one subfolder.`,
    });
    return true;
  }
}

/** Puts the limits of a link into words. */
function promise({ validMs, uses }: LinkLimits): string {
  const end =
    validMs === undefined ? "until nobody has used it for 24 hours" : `for ${span(validMs)}`;
  const count =
    uses === undefined ? "" : uses === 1 ? ", for one download" : `, for ${uses} downloads`;
  return `It works for anyone on this network ${end}${count}.`;
}

function span(ms: number): string {
  const hours = Math.round(ms / 3_600_000);
  if (hours < 24) return hours === 1 ? "one hour" : `${hours} hours`;
  return hours === 24 ? "one day" : `${Math.round(hours / 24)} days`;
}

function codeOf(error: unknown): string {
  return error instanceof LinkRefused ? error.code : NO_CONNECTION;
}

function messageOf(error: unknown): string {
  return error instanceof LinkRefused ? error.message : "The hub could not be reached.";
}
