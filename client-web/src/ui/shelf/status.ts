/** Decides the status of a row. Pure; the components only draw it. */
import type { Item } from "../../catalogue/catalogue";
import { type Download, isOver } from "../../downloads/downloads";
import type { OutgoingTransfer } from "../../sharing/outgoing";
import { ago, percent, plural, remaining, speed } from "../../lib/format";

export type Status =
  | { at: "idle"; text: string; asleep: boolean }
  | { at: "announcing" }
  | { at: "trouble"; text: string; button: "Try again" | "Pick it again" | "Download again" | null }
  | { at: "queued"; text: string; download: string }
  | {
      at: "arriving";
      value: number;
      lead: string;
      text: string;
      tone: "down" | "wait";
      download: string;
    }
  | { at: "leaving"; value: number; lead: string; text: string }
  | { at: "saved"; text: string }
  | { at: "gone"; text: string };

export interface Facts {
  download: Download | undefined;
  /** The running transfers of this row's files to other devices. */
  outgoing: OutgoingTransfer[];
  finished: number;
  /** The owner's presence, "unknown" while the relay is out of reach. */
  owner: "here" | "asleep" | "unknown";
  ownerName: string;
  hubName: string;
  nameOf(publicId: string): string;
  now: number;
}

/** The time after which a speed is meaningful. */
const SETTLED_MS = 3_000;

export function statusOf(item: Item, facts: Facts): Status {
  if (item.kind === "file" && item.gone)
    return { at: "gone", text: `Removed by ${facts.ownerName}` };
  const fetched = facts.download && ofDownload(facts.download, facts);
  if (fetched) return fetched;
  if (item.mine) return ofMine(item, facts);
  if (facts.owner === "asleep")
    return { at: "idle", text: "Away until it reconnects", asleep: true };
  return { at: "idle", text: "", asleep: false };
}

function ofDownload(download: Download, facts: Facts): Status | undefined {
  const { id, state, done, size, rate } = download;
  const value = percent(done, size);
  switch (state) {
    case "queued":
      return { at: "queued", text: "Queued", download: id };
    case "starting":
      return { at: "queued", text: "Starting…", download: id };
    case "waiting":
      return {
        at: "arriving",
        value,
        tone: "wait",
        lead: awaited(facts),
        text: "will continue",
        download: id,
      };
    case "paused":
      return {
        at: "arriving",
        value,
        tone: "wait",
        lead: `${value} %`,
        text: "Paused in the browser",
        download: id,
      };
    case "running": {
      const left = remaining(size - done, rate);
      const told = facts.now - download.startedMs > SETTLED_MS && rate > 0;
      const text = told ? [speed(rate), left].filter(Boolean).join(" · ") : "Downloading";
      return { at: "arriving", value, tone: "down", lead: `${value} %`, text, download: id };
    }
    case "done":
      return { at: "saved", text: `Saved ${ago(download.endedMs ?? facts.now, facts.now)}` };
    case "failed":
      return {
        at: "trouble",
        text: download.problem ?? "The download failed.",
        button: "Download again",
      };
    case "cancelled":
      return undefined;
  }
}

function awaited({ owner, ownerName, hubName }: Facts): string {
  if (owner === "here") return "Waiting for its turn";
  return `Waiting for ${owner === "asleep" ? ownerName : hubName}`;
}

function ofMine(item: Item, facts: Facts): Status {
  if (item.kind === "folder") {
    if (item.lost > 0)
      return {
        at: "trouble",
        text: `${plural(item.lost, "file")} to pick again after the reload`,
        button: "Pick it again",
      };
    if (item.syncing > 0) return { at: "announcing" };
  } else if (item.offer === "syncing") return { at: "announcing" };
  else if (item.offer === "failed")
    return { at: "trouble", text: item.problem ?? "Couldn’t be added", button: "Try again" };
  else if (item.offer === "lost")
    return {
      at: "trouble",
      text: "Needs to be picked again after the reload",
      button: "Pick it again",
    };
  else if (item.offer === "leaving") return { at: "idle", text: "Stopping…", asleep: false };
  const [first, ...others] = facts.outgoing;
  if (first) {
    const askers = new Set(facts.outgoing.map(({ asker }) => asker));
    const who =
      others.length > 0 && askers.size > 1
        ? plural(askers.size, "device")
        : facts.nameOf(first.asker);
    const value = percent(sum(facts.outgoing, "done"), sum(facts.outgoing, "total"));
    return {
      at: "leaving",
      value,
      lead: `${value} %`,
      text: askers.size > 1 ? `${who} are downloading this` : `${who} is downloading this`,
    };
  }
  return {
    at: "idle",
    text: facts.finished > 0 ? `${plural(facts.finished, "download")} so far` : "",
    asleep: false,
  };
}

export function isBusy(download: Download | undefined): boolean {
  return download !== undefined && !isOver(download);
}

function sum(outgoing: OutgoingTransfer[], what: "done" | "total"): number {
  return outgoing.reduce((all, transfer) => all + transfer[what], 0);
}
