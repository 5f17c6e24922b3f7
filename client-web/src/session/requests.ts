/**
 * Keeps the requests that wait for an answer. After ten seconds the caller is told; a late answer
 * still counts. An answer may reach a reloaded or duplicated page. So refs start at a random
 * number (PROTOCOL.md 1.4).
 */
import { REQUEST_TIMEOUT_MS } from "../protocol/limits";

export interface Asked<Answer> {
  answered(answer: Answer): void;
  /** Called without an answer in time. `answered` may follow. */
  overdue?(): void;
}

export class Requests<Answer extends { ref?: string }> {
  #open = new Map<string, { asked: Asked<Answer>; due: number | null }>();
  #count: number;

  constructor(
    private readonly now: () => number,
    chance: () => number = Math.random,
  ) {
    this.#count = Math.floor(chance() * 2 ** 40);
  }

  open(asked: Asked<Answer>): string {
    const ref = `r${(this.#count += 1)}`;
    this.#open.set(ref, { asked, due: this.now() + REQUEST_TIMEOUT_MS });
    return ref;
  }

  settle(answer: Answer): void {
    const found = answer.ref === undefined ? undefined : this.#open.get(answer.ref);
    if (!found || answer.ref === undefined) return;
    this.#open.delete(answer.ref);
    found.asked.answered(answer);
  }

  /** Forgets a request that was never sent. */
  forget(ref: string): void {
    this.#open.delete(ref);
  }

  tick(): void {
    for (const entry of this.#open.values()) {
      if (entry.due === null || this.now() < entry.due) continue;
      entry.due = null;
      entry.asked.overdue?.();
    }
  }

  /** Ends all requests after a lost connection. */
  drop(): void {
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const { asked, due } of open) if (due !== null) asked.overdue?.();
  }
}
