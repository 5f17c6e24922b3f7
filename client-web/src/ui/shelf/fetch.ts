/** Turns rows into downloads and links. A folder stands for everything in it. */
import { type FileItem, type FolderItem, type Item, filesOf } from "../../catalogue/catalogue";
import type { LinkLimits } from "../../downloads/fetching";
import type { HubStore } from "../../store.svelte";
import type { LinkFolder } from "../../protocol/generated/LinkFolder";
import { plural } from "../../lib/format";

export function listedOf(hub: HubStore, item: Item): FileItem[] {
  return filesOf([item], hub.files).filter(({ listed }) => listed);
}

export function fetchItem(hub: HubStore, item: Item): void {
  const items = listedOf(hub, item);
  if (item.kind === "folder") hub.actions.download(items, item.name, item.key, folderOf(item));
  else hub.actions.download(items, item.name, item.key);
}

/** Returns the folder of a row as a link names it. */
export function folderOf(item: FolderItem): LinkFolder {
  return { public_id: item.owner, path: item.prefix.replace(/\/$/, "") };
}

/** Copies a link to the row. */
export function copyItem(hub: HubStore, item: Item, limits?: LinkLimits): void {
  hub.actions.copyLink(
    listedOf(hub, item),
    item.name,
    item.kind === "folder" ? folderOf(item) : undefined,
    limits,
  );
}

export function fetchChosen(hub: HubStore): void {
  const items = hub.chosen;
  const [only] = items;
  if (items.length === 1 && only) hub.actions.download(items, only.name, only.key);
  else hub.actions.download(items, plural(items.length, "file"), "selection");
  hub.selectNone();
}

/** Returns the downloads that would be interrupted if these files were no longer shared. */
export function takersOf(hub: HubStore, fileIds: string[]): { name: string; share: number }[] {
  return fileIds
    .flatMap((id) => hub.outgoing.get(id) ?? [])
    .map(({ asker, done, total }) => ({
      name: hub.nameOf(asker),
      share: total > 0 ? Math.floor((100 * done) / total) : 0,
    }));
}
