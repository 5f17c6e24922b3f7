/** Calls once for many wishes, a little later: a burst of changes is one new list. */
export class Soon {
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly run: () => void,
    private readonly waitMs: number,
  ) {}

  wish(): void {
    this.#timer ??= setTimeout(() => this.now(), this.waitMs);
  }

  now(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.run();
  }
}
