/**
 * Returns the wait before the next attempt to connect. Full jitter keeps a hundred tabs from
 * coming back at the same moment.
 */
import { RECONNECT_BASE_MS, RECONNECT_CAP_MS } from "../protocol/limits";

/** `attempt` counts from 0, `chance` is in [0, 1). */
export function delayBefore(attempt: number, chance: number): number {
  return Math.floor(
    chance * Math.min(RECONNECT_CAP_MS, RECONNECT_BASE_MS * 2 ** Math.min(attempt, 30)),
  );
}
