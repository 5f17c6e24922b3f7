/**
 * A page that meets a hub of another version loads itself again: the hub serves the page that fits. Once for each version,
 * so that a page which comes back the same (from a cache, say) ends at its button and not in a loop.
 */
const RELOADED = "lanyard.reloaded";

export class Reloads {
  constructor(
    private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem">,
    private readonly reload: () => void,
  ) {}

  /** `met` names the version of the hub. Without a memory nothing is reloaded: it could not be once. */
  outdated(met: string): void {
    try {
      if (this.storage.getItem(RELOADED) === met) return;
      this.storage.setItem(RELOADED, met);
      if (this.storage.getItem(RELOADED) !== met) return;
    } catch {
      return;
    }
    this.reload();
  }

  /** The hub and this page understand each other. */
  settled(): void {
    try {
      this.storage.removeItem(RELOADED);
    } catch {
      // Then nothing was kept either.
    }
  }
}
