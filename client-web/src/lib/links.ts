/** Puts the limits of a link into words. */
import type { LinkListed } from "../protocol/generated/LinkListed";
import { plural } from "./format";

const HOUR = 3_600_000;

export function lasts({ expires_ms, ends, uses_left }: LinkListed, now: number): string {
  const left = Math.max(0, expires_ms - now);
  const end = ends ? `Ends in ${about(left)}` : `Ends when unused for ${about(left)}`;
  if (uses_left === undefined) return end;
  return uses_left === 0 ? "No downloads left" : `${end} · ${plural(uses_left, "download")} left`;
}

/** Formats a duration as "50 minutes", "3 hours" or "2 days". */
export function about(ms: number): string {
  if (ms < HOUR) return plural(Math.max(1, Math.ceil(ms / 60_000)), "minute");
  if (ms < 48 * HOUR) return plural(Math.round(ms / HOUR), "hour");
  return plural(Math.round(ms / (24 * HOUR)), "day");
}
