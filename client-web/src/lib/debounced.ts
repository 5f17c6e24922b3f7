/**
 * Runs a function once for many triggers, a little later. A burst of changes draws one new list.
 */
export class Debounced {
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly run: () => void,
    private readonly waitMs: number,
  ) {}

  trigger(): void {
    this.#timer ??= setTimeout(() => this.flush(), this.waitMs);
  }

  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.run();
  }
}

/**
 * Lets the browser draw and handle input before going on. Uses a message, since timers are delayed
 * in hidden tabs.
 */
export function yieldToBrowser(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
