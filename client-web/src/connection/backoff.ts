/** How long to wait before the next try: full jitter, so that a hundred tabs do not come back in one breath. */
import { RECONNECT_BASE_MS, RECONNECT_CAP_MS } from "../protocol/limits";

/** `attempt` counts from 0, `chance` is in [0, 1). */
export function delayBefore(attempt: number, chance: number): number {
  return Math.floor(
    chance * Math.min(RECONNECT_CAP_MS, RECONNECT_BASE_MS * 2 ** Math.min(attempt, 30)),
  );
}
