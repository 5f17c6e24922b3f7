/** Rows as orders: a folder is all that is in it. */
import { type FileItem, type Item, filesOf } from "../../hub/catalogue";
import type { HubStore } from "../../hub/store.svelte";
import { plural } from "../../lib/format";

export function listedOf(hub: HubStore, item: Item): FileItem[] {
  return filesOf([item], hub.files).filter(({ listed }) => listed);
}

export function fetchItem(hub: HubStore, item: Item): void {
  hub.verbs.download(listedOf(hub, item), item.name, item.key);
}

export function fetchChosen(hub: HubStore): void {
  const items = hub.chosen;
  const [only] = items;
  if (items.length === 1 && only) hub.verbs.download(items, only.name, only.key);
  else hub.verbs.download(items, plural(items.length, "file"), "selection");
  hub.selectNone();
}

/** What would be interrupted if these stopped being shared: who, and how far. */
export function takersOf(hub: HubStore, fileIds: string[]): { name: string; share: number }[] {
  return fileIds
    .flatMap((id) => hub.takings.get(id) ?? [])
    .map(({ asker, done, total }) => ({ name: hub.nameOf(asker), share: total > 0 ? Math.floor((100 * done) / total) : 0 }));
}
