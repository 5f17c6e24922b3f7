/**
 * Reloads a page that meets a hub of another version, since the hub serves the page that fits.
 * Reloads once for each version: a page that comes back unchanged (from a cache, for instance)
 * ends at its button and not in a loop.
 */
const RELOADED = "lanyard.reloaded";

export class Reloads {
  constructor(
    private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem">,
    private readonly reload: () => void,
  ) {}

  /**
   * Reloads the page once for the version `met`. Without storage nothing is reloaded, since a
   * second reload could not be prevented.
   */
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

  /** Clears the note of a reload once the hub and this page have the same version. */
  settled(): void {
    try {
      this.storage.removeItem(RELOADED);
    } catch {
      // Without storage no note was kept either.
    }
  }
}
