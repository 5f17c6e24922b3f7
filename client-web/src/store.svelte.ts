/**
 * Holds the state of the device's page for components to read, and the actions they may call. The
 * only reactive object of the page.
 */
import { getContext, setContext } from "svelte";
import type { LinkState } from "./connection/socket";
import type { LinkFolder } from "./protocol/generated/LinkFolder";
import type { Client, HubInfo, TransportMode } from "./protocol/wire";
import {
  type FileItem,
  type Item,
  PLAIN_VIEW,
  type View,
  browse,
  counts,
  filesOf,
  scope,
} from "./catalogue/catalogue";
import { type Download, isOver } from "./downloads/downloads";
import type { LinkLimits } from "./downloads/fetching";
import type { OwnLink } from "./downloads/links";
import type { Place, Stop } from "./session/session";
import type { OutgoingTransfer } from "./sharing/outgoing";

export type { Stop };

export type Screen = { at: "starting" } | { at: "unable"; why: string } | Place;

export interface Notice {
  id: number;
  tone: "ok" | "wait" | "error";
  title: string;
  text?: string;
  /** The notice's only button. */
  action?: { label: string; run(): void };
}

export interface LinkShown {
  title: string;
  url: string;
}

/** The actions that a component may call. */
export interface Actions {
  knock(name: string): void;
  stopKnocking(): void;
  tryNow(): void;
  rename(name: string): void;
  shareFiles(files: Iterable<File>): void;
  shareDrop(transfer: DataTransfer): void;
  sharePaste(transfer: DataTransfer | null): void;
  announceAgain(fileIds: string[]): void;
  stopSharing(fileIds: string[]): void;
  /** Downloads the items, or with `folder` everything in that folder. */
  download(items: FileItem[], title: string, subject: string, folder?: LinkFolder): void;
  cancel(downloadId: string): void;
  clearHistory(): void;
  copyLink(items: FileItem[], title: string, folder?: LinkFolder, limits?: LinkLimits): void;
  loadLinks(): void;
  copyAgain(link: OwnLink): void;
  dropLink(link: OwnLink): void;
  play(item: FileItem): void;
  dismiss(noticeId: number): void;
}

export class HubStore {
  screen = $state.raw<Screen>({ at: "starting" });
  link = $state.raw<LinkState>({ at: "idle" });
  hub = $state.raw<Partial<HubInfo>>({});
  mode = $state.raw<TransportMode | null>(null);
  /** The address of the encrypted page, for a page that is not encrypted. */
  secureAddress = $state("/secure");
  hubReady = $state(false);
  /** True if approved on the current connection. */
  entered = $state(false);
  /** True once the hub has answered, whatever the answer. */
  registered = $state(false);
  busy = $state(false);
  /** True once the list was whole, so that there is something to show while the hub is away. */
  loaded = $state(false);
  me = $state("");
  name = $state("");

  files = $state.raw<FileItem[]>([]);
  clients = $state.raw<Client[]>([]);
  online = $state.raw<ReadonlySet<string>>(new Set());
  downloads = $state.raw<Download[]>([]);
  outgoing = $state.raw<ReadonlyMap<string, OutgoingTransfer[]>>(new Map());
  finished = $state.raw<ReadonlyMap<string, number>>(new Map());
  /** The number of uploads open or waiting. */
  owes = $state(0);

  view = $state.raw<View>(PLAIN_VIEW);
  selected = $state.raw<ReadonlySet<string>>(new Set());
  notices = $state.raw<Notice[]>([]);
  announcement = $state("");
  linkShown = $state.raw<LinkShown | null>(null);
  /** This device's links, the newest first, once they were asked for. */
  links = $state.raw<OwnLink[]>([]);
  linksState = $state.raw<"unknown" | "loading" | "known" | "failed">("unknown");
  playing = $state.raw<LinkShown | null>(null);
  now = $state(Date.now());

  readonly scoped = $derived(scope(this.files, this.view));
  readonly counts = $derived(counts(this.scoped));
  readonly rows = $derived<Item[]>(browse(this.files, this.view));
  readonly fileCounts = $derived.by(() => {
    const byOwner = new Map<string, number>();
    for (const { owner, gone } of this.files)
      if (!gone) byOwner.set(owner, (byOwner.get(owner) ?? 0) + 1);
    return byOwner;
  });
  readonly names = $derived(new Map(this.clients.map((client) => [client.public_id, client.name])));
  readonly kinds = $derived(new Map(this.clients.map((client) => [client.public_id, client])));
  readonly chosen = $derived(
    filesOf(
      this.rows.filter(({ key }) => this.selected.has(key)),
      this.files,
    ).filter(({ listed }) => listed),
  );
  readonly running = $derived(this.downloads.filter((download) => !isOver(download)));
  /** The newest download by row. */
  readonly bySubject = $derived(
    new Map([...this.downloads].reverse().map((download) => [download.subject, download])),
  );
  /** True if the presence of others is known. Without the relay nobody reports it. */
  readonly inTouch = $derived(this.link.at === "open" && this.entered);
  /** True if everything that needs the hub can be used. */
  readonly usable = $derived(this.inTouch && this.hubReady);

  constructor(readonly actions: Actions) {}

  nameOf(publicId: string): string {
    return this.names.get(publicId) ?? "Someone";
  }

  whereIs(publicId: string): "here" | "asleep" | "unknown" {
    if (publicId === this.me) return "here";
    if (!this.inTouch) return "unknown";
    return this.online.has(publicId) ? "here" : "asleep";
  }

  show(change: Partial<View>): void {
    this.view = { ...this.view, ...change };
    this.selected = new Set();
  }

  select(key: string, on: boolean): void {
    const selected = new Set(this.selected);
    if (on) selected.add(key);
    else selected.delete(key);
    this.selected = selected;
  }

  selectNone(): void {
    this.selected = new Set();
  }
}

const KEY = Symbol("hub");

export function provideHub(hub: HubStore): HubStore {
  return setContext(KEY, hub);
}

export function useHub(): HubStore {
  return getContext<HubStore>(KEY);
}
