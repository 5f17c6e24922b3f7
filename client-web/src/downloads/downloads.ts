/**
 * Keeps the downloads that this page asked the browser for, and their progress as the relay
 * reports it. Pure.
 */
import { MAX_DOWNLOADS } from "../protocol/limits";
import type { LinkFolder } from "../protocol/generated/LinkFolder";
import type { FileRef, TransferProgress } from "../protocol/wire";

export type DownloadState =
  "queued" | "starting" | "waiting" | "running" | "paused" | "done" | "failed" | "cancelled";

export interface Download {
  id: string;
  /** The key of the row where the download was started: a file, a folder, or "selection". */
  subject: string;
  title: string;
  files: FileRef[];
  /** True if several files travel as one zip archive. */
  zip: boolean;
  size: number;
  state: DownloadState;
  /** The whole folder, as it is when the browser fetches it. */
  folder?: LinkFolder;
  /** The hash of the download's link. */
  link: string | null;
  url: string | null;
  done: number;
  /** Bytes per second, averaged over about five seconds. */
  rate: number;
  startedMs: number;
  heardMs: number;
  endedMs: number | null;
  problem: string | null;
}

/**
 * The longest time for which a started download without any progress keeps its place. The browser
 * may be asking where to save the file.
 */
const SILENT_MS = 15_000;
/** The silence after which a running download counts as ended outside of this page. */
const LOST_MS = 120_000;
const KEPT = 200;
const CUT_OFF =
  "The hub restarted. Press Resume in the browser’s downloads: it goes on where it stopped.";

export class Downloads {
  /** The downloads, the newest first. */
  list: Download[] = [];

  add(
    what: Pick<Download, "id" | "subject" | "title" | "files" | "zip" | "size" | "folder">,
    now: number,
  ): void {
    const blank = {
      state: "queued",
      link: null,
      url: null,
      done: 0,
      rate: 0,
      startedMs: now,
      heardMs: now,
      endedMs: null,
      problem: null,
    } as const;
    this.list = [{ ...what, ...blank }, ...this.list].slice(0, KEPT);
  }

  /** Starts the queued downloads whose turn it is, and returns them, the oldest first. */
  takeTurns(now: number): Download[] {
    let free = MAX_DOWNLOADS - this.list.filter((one) => holdsPlace(one, now)).length;
    const turns: Download[] = [];
    for (const one of [...this.list].reverse()) {
      if (free <= 0) break;
      if (one.state !== "queued") continue;
      free -= 1;
      turns.push(this.#set(one.id, { state: "starting", startedMs: now, heardMs: now }) ?? one);
    }
    return turns;
  }

  linked(id: string, link: string, url: string): Download | undefined {
    return this.#set(id, { link, url });
  }

  progress(progress: TransferProgress, now: number): boolean {
    const one = this.list.find(({ link }) => link !== null && link === progress.link_hash);
    if (!one || one.state === "cancelled") return false;
    const ended =
      progress.state === "done" || progress.state === "failed" || progress.state === "cancelled";
    this.#set(one.id, {
      state: progress.state,
      done: progress.done,
      size: progress.total > 0 ? progress.total : one.size,
      rate: smooth(one, progress.rate, now),
      heardMs: now,
      endedMs: ended ? now : null,
      problem: null,
    });
    return true;
  }

  /**
   * Handles the end of the relay that sent the bodies. The browser keeps its part; if the browser
   * resumes, the relay reports progress again.
   */
  cutOff(now: number): void {
    for (const { id, state } of this.list) {
      if (state === "running" || state === "waiting" || state === "paused")
        this.#set(id, { state: "failed", problem: CUT_OFF, endedMs: now });
    }
  }

  fail(id: string, problem: string, now: number): void {
    this.#set(id, { state: "failed", problem, endedMs: now });
  }

  cancel(id: string, now: number): Download | undefined {
    const one = this.list.find((entry) => entry.id === id);
    if (!one || isOver(one)) return undefined;
    return this.#set(id, { state: "cancelled", endedMs: now });
  }

  forgetEnded(): void {
    this.list = this.list.filter((one) => !isOver(one));
  }

  /** Returns the downloads to keep for a reload: the browser's own downloads outlive the page. */
  get lasting(): Download[] {
    return this.list
      .filter((one) => !isOver(one))
      .map((one) => (one.files.length > 100 ? { ...one, files: [] } : one));
  }

  restore(known: Download[]): void {
    this.list = known.map((one) =>
      one.link === null
        ? { ...one, state: "failed", problem: "The page was reloaded before it began." }
        : one,
    );
  }

  #set(id: string, change: Partial<Download>): Download | undefined {
    let changed: Download | undefined;
    this.list = this.list.map((one) => (one.id === id ? (changed = { ...one, ...change }) : one));
    return changed;
  }
}

export function isOver({ state }: Download): boolean {
  return state === "done" || state === "failed" || state === "cancelled";
}

function holdsPlace(one: Download, now: number): boolean {
  if (one.state === "starting") return now - one.heardMs < SILENT_MS;
  if (one.state === "running") return now - one.heardMs < LOST_MS;
  return one.state === "waiting";
}

function smooth(one: Download, rate: number, now: number): number {
  if (one.rate === 0) return rate;
  const share = Math.min(1, (now - one.heardMs) / 5_000);
  return one.rate + (rate - one.rate) * Math.max(share, 0.05);
}
