/**
 * Turns the mirror into rows: kinds, folders, filters, order. Pure, and quick enough for 100,000
 * files.
 */
import { nameOf } from "../transfer/paths";
import { type Listed, keyOf } from "./mirror";
import type { Offer, OfferState } from "../sharing/shares";

export type MediaClass = "photo" | "video" | "audio" | "document" | "archive" | "other";
export type Filter = "all" | "photo" | "video" | "audio" | "document";
export type Order = "newest" | "name" | "largest";

export interface FileItem {
  kind: "file";
  key: string;
  owner: string;
  file_id: string;
  path: string;
  name: string;
  size: number;
  modified_ms: number;
  media_type: string;
  media: MediaClass;
  root: string | undefined;
  seq: number;
  mine: boolean;
  /** True once the file is on the hub's list, where other devices and links can reach it. */
  listed: boolean;
  /** Set for this tab's own files only. */
  offer: OfferState | null;
  problem: string | undefined;
  /** Set for a file that has just left the list: its row is struck through until it folds. */
  gone: "removed" | "turned-away" | null;
}

export interface FolderItem {
  kind: "folder";
  key: string;
  owner: string;
  /** Ends with a slash. */
  prefix: string;
  name: string;
  count: number;
  size: number;
  seq: number;
  modified_ms: number;
  mine: boolean;
  listed: boolean;
  lost: number;
  syncing: number;
}

export type Item = FileItem | FolderItem;

export interface View {
  owner: string | null;
  /** The open folder, which belongs to one owner. */
  folder: { owner: string; prefix: string } | null;
  query: string;
  filter: Filter;
  order: Order;
}

export const PLAIN_VIEW: View = {
  owner: null,
  folder: null,
  query: "",
  filter: "all",
  order: "newest",
};

const EXTENSIONS: [MediaClass, RegExp][] = [
  ["photo", /^(jpe?g|png|gif|webp|heic|heif|avif|bmp|tiff?|svg|raw|dng|cr2|nef|arw)$/],
  ["video", /^(mp4|m4v|mov|mkv|webm|avi|mpe?g|wmv|3gp|mts)$/],
  ["audio", /^(mp3|m4a|aac|flac|ogg|opus|wav|aiff?|wma)$/],
  [
    "document",
    /^(pdf|docx?|odt|rtf|txt|md|csv|xlsx?|ods|pptx?|odp|epub|pages|numbers|key|html?|json|xml)$/,
  ],
  ["archive", /^(zip|7z|rar|tar|gz|bz2|xz|zst|tgz|iso|dmg)$/],
];

export function mediaOf(name: string, mediaType: string): MediaClass {
  const top = mediaType.slice(0, mediaType.indexOf("/"));
  if (top === "image") return "photo";
  if (top === "video" || top === "audio") return top;
  const extension = name.slice(name.lastIndexOf(".") + 1).toLowerCase();
  const known = EXTENSIONS.find(([, pattern]) => pattern.test(extension));
  return known?.[0] ?? (top === "text" ? "document" : "other");
}

/** Returns true if browsers usually play this kind of file, judged by its name. */
export function isPlayable(item: FileItem): boolean {
  return (
    item.listed &&
    (item.media === "video" || item.media === "audio") &&
    !/\.(avi|wmv|wma|mpe?g|mts|mkv)$/i.test(item.name)
  );
}

/**
 * Returns every file to show: those on the hub's list, and those this tab is about to offer or has
 * lost.
 */
export function collect(
  listed: Iterable<Listed>,
  offers: ReadonlyMap<string, Offer>,
  me: string,
): FileItem[] {
  const items: FileItem[] = [];
  const shown = new Set<string>();
  for (const file of listed) {
    const mine = file.public_id === me;
    const offer = mine ? offers.get(file.file_id) : undefined;
    if (mine) shown.add(file.file_id);
    if (file.kind === "folder") continue;
    items.push(mine ? itemOf(file, file.seq, true, true, offer) : itemOfOthers(file));
  }
  let ahead = Number.MAX_SAFE_INTEGER - offers.size;
  for (const offer of offers.values()) {
    ahead += 1;
    if (shown.has(offer.file_id) || offer.kind === "folder" || offer.state === "leaving") continue;
    items.push(itemOf({ ...offer, public_id: me }, ahead, true, false, offer));
  }
  return items;
}

/**
 * Caches one item per entry: the mirror replaces entries and never changes them. Each addition
 * collects the whole list again, which may have 100,000 entries.
 */
const made = new WeakMap<Listed, FileItem>();

function itemOfOthers(file: Listed): FileItem {
  const known = made.get(file);
  if (known) return known;
  const item = itemOf(file, file.seq, false, true, undefined);
  made.set(file, item);
  return item;
}

function itemOf(
  file: Omit<Listed, "instance" | "group_log" | "seq">,
  seq: number,
  mine: boolean,
  listed: boolean,
  offer: Offer | undefined,
): FileItem {
  const name = nameOf(file.path);
  return {
    kind: "file",
    key: keyOf(file),
    owner: file.public_id,
    file_id: file.file_id,
    path: file.path,
    name,
    size: file.size,
    modified_ms: file.modified_ms,
    media_type: file.media_type,
    media: mediaOf(name, file.media_type),
    root: file.root,
    seq,
    mine,
    listed,
    offer: offer?.state ?? null,
    problem: offer?.problem,
    gone: null,
  };
}

/** Returns the files in a view, before filter and order. */
export function scope(items: FileItem[], { owner, folder }: View): FileItem[] {
  if (folder)
    return items.filter(
      (item) => item.owner === folder.owner && item.path.startsWith(folder.prefix),
    );
  return owner === null ? items : items.filter((item) => item.owner === owner);
}

export function counts(items: FileItem[]): Record<Filter, number> {
  const all: Record<Filter, number> = {
    all: items.length,
    photo: 0,
    video: 0,
    audio: 0,
    document: 0,
  };
  for (const { media } of items) if (media in all) all[media as Filter] += 1;
  return all;
}

/**
 * Returns the rows of a view. A folder's row stands for its files, unless a search or a filter is
 * active.
 */
export function browse(items: FileItem[], view: View): Item[] {
  const query = view.query.trim().toLowerCase();
  const flat = query !== "" || view.filter !== "all";
  let files = scope(items, view);
  if (view.filter !== "all") files = files.filter(({ media }) => media === view.filter);
  if (query !== "") files = files.filter(({ path }) => path.toLowerCase().includes(query));
  return sort(flat ? files : folded(files, view.folder?.prefix ?? ""), view.order);
}

function folded(files: FileItem[], prefix: string): Item[] {
  const rows: Item[] = [];
  const folders = new Map<string, FolderItem>();
  const folderOf = (file: FileItem, slash: number): FolderItem => {
    const below = file.path.slice(0, slash + 1);
    const key = `${file.owner}/${below}`;
    const known = folders.get(key);
    if (known) return known;
    const name = file.path.slice(prefix.length, slash);
    const folder: FolderItem = {
      kind: "folder",
      key,
      owner: file.owner,
      prefix: below,
      name,
      count: 0,
      size: 0,
      seq: 0,
      modified_ms: 0,
      mine: file.mine,
      listed: false,
      lost: 0,
      syncing: 0,
    };
    folders.set(key, folder);
    rows.push(folder);
    return folder;
  };
  let folder: FolderItem | undefined;
  for (const file of files) {
    const slash = file.path.indexOf("/", prefix.length);
    if (slash < 0) {
      rows.push(file);
      continue;
    }
    // Files of one folder usually follow each other, so the last folder is tried first.
    const isNext =
      folder?.owner === file.owner &&
      folder.prefix.length === slash + 1 &&
      file.path.startsWith(folder.prefix);
    if (!folder || !isNext) folder = folderOf(file, slash);
    folder.count += 1;
    folder.size += file.size;
    folder.seq = Math.max(folder.seq, file.seq);
    folder.modified_ms = Math.max(folder.modified_ms, file.modified_ms);
    if (file.listed) folder.listed = true;
    if (file.offer === "lost") folder.lost += 1;
    if (file.offer === "syncing") folder.syncing += 1;
  }
  return rows;
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
/**
 * The largest list that is sorted by the rules of the language: on longer ones the delay is
 * noticeable.
 */
const MANY = 5_000;

function sort(rows: Item[], order: Order): Item[] {
  if (order === "newest") return rows.sort((a, b) => b.seq - a.seq);
  if (order === "largest") return rows.sort((a, b) => b.size - a.size || b.seq - a.seq);
  if (rows.length <= MANY) return rows.sort((a, b) => collator.compare(a.name, b.name));
  return rows.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/**
 * Returns all files that the rows stand for. Visits each file once, however many folders there
 * are.
 */
export function filesOf(rows: Item[], items: FileItem[]): FileItem[] {
  const below = new Map<string, FileItem[]>();
  for (const row of rows) if (row.kind === "folder") below.set(`${row.owner}/${row.prefix}`, []);
  if (below.size > 0) {
    for (const item of items) {
      for (
        let slash = item.path.indexOf("/");
        slash >= 0;
        slash = item.path.indexOf("/", slash + 1)
      ) {
        below.get(`${item.owner}/${item.path.slice(0, slash + 1)}`)?.push(item);
      }
    }
  }
  return rows.flatMap((row) =>
    row.kind === "file" ? [row] : (below.get(`${row.owner}/${row.prefix}`) ?? []),
  );
}
