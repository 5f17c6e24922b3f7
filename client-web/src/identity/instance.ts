/**
 * Provides the id of this tab's sessions, kept over a reload and new for a new tab.
 *
 * Duplicating a tab copies its storage. The copy asks on a channel whether the id is in use, and
 * then takes another one.
 */
import { type Random, systemRandom, toHex } from "./bytes";

const NAME = "lanyard.instance";
const CHANNEL = "lanyard.instance";
const ANSWER_MS = 120;

export interface Instance {
  id: string;
  /** True if the page was loaded before under this id and may have shared files. */
  reloaded: boolean;
}

export async function claimInstance(
  signal: AbortSignal,
  random: Random = systemRandom,
): Promise<Instance> {
  const kept = read();
  const taken = kept !== null && (await isTaken(kept));
  if (kept !== null && !taken) {
    defend(() => read() ?? kept, signal);
    return { id: kept, reloaded: true };
  }
  const id = renewInstance(random);
  defend(() => read() ?? id, signal);
  return { id, reloaded: false };
}

export function renewInstance(random: Random = systemRandom): string {
  const id = toHex(random(16));
  try {
    sessionStorage.setItem(NAME, id);
  } catch {
    // Without storage a reload counts as a new tab.
  }
  return id;
}

function read(): string | null {
  try {
    const kept = sessionStorage.getItem(NAME);
    return kept && /^[0-9a-f]{32}$/.test(kept) ? kept : null;
  } catch {
    return null;
  }
}

function isTaken(id: string): Promise<boolean> {
  if (typeof BroadcastChannel === "undefined") return Promise.resolve(false);
  return new Promise((resolve) => {
    const channel = new BroadcastChannel(CHANNEL);
    const finish = (taken: boolean) => {
      channel.close();
      resolve(taken);
    };
    channel.onmessage = (event) => event.data?.mine === id && finish(true);
    channel.postMessage({ whose: id });
    setTimeout(() => finish(false), ANSWER_MS);
  });
}

function defend(current: () => string, signal: AbortSignal): void {
  if (typeof BroadcastChannel === "undefined") return;
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = (event) => {
    if (event.data?.whose === current()) channel.postMessage({ mine: current() });
  };
  signal.addEventListener("abort", () => channel.close());
}
