/** How long to wait before the next try: full jitter, so that a hundred tabs do not come back in one breath. */
const BASE_MS = 250;
const CAP_MS = 15_000;

/** `attempt` counts from 0, `chance` is in [0, 1). */
export function delayBefore(attempt: number, chance: number): number {
  return Math.floor(chance * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempt, 30)));
}
