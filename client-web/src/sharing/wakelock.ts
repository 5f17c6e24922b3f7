/**
 * Keeps the screen on while this device sends bytes, where the browser can (secure contexts only).
 */
export class WakeLock {
  #wanted = false;
  #lock: { release(): Promise<void> } | null = null;

  set(wanted: boolean): void {
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    if (wanted) void this.#take();
    else void this.#drop();
  }

  async #take(): Promise<void> {
    try {
      const lock = await navigator.wakeLock?.request("screen");
      if (!lock) return;
      this.#lock = lock;
      if (!this.#wanted) await this.#drop();
    } catch {
      // The browser refused (battery, hidden tab). The note on the screen asks the person instead.
    }
  }

  async #drop(): Promise<void> {
    const lock = this.#lock;
    this.#lock = null;
    await lock?.release().catch(() => undefined);
  }
}
