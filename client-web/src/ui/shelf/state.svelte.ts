/** Keeps which dialogs and pickers are open on the shelf. Holds nothing of the hub. */
import { getContext, setContext } from "svelte";
import type { FileItem, Item } from "../../catalogue/catalogue";

export type Sheet =
  | { open: "none" }
  | { open: "activity" }
  | { open: "rename" }
  | { open: "links" }
  | { open: "limited"; item: Item }
  | { open: "details"; item: FileItem }
  | { open: "stop"; fileIds: string[]; title: string };

export class ShelfState {
  sheet = $state.raw<Sheet>({ open: "none" });
  /** Set by the component that holds the inputs. */
  pickFiles: () => void = () => undefined;
  pickFolder: () => void = () => undefined;
  /** On a phone the search field opens on demand. */
  searching = $state(false);

  close = (): void => {
    this.sheet = { open: "none" };
  };

  pickAgain(item: Item): void {
    if (item.kind === "folder" || item.path.includes("/")) this.pickFolder();
    else this.pickFiles();
  }
}

const KEY = Symbol("shelf");

export const provideShelf = (shelf: ShelfState): ShelfState => setContext(KEY, shelf);
export const useShelf = (): ShelfState => getContext<ShelfState>(KEY);
