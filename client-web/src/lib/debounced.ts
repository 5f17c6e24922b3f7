/** Calls once for many wishes, a little later: a burst of changes is one new list. */
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

/** Lets the page draw and answer before going on. A message, not a timer: hidden tabs hold timers back. */
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
