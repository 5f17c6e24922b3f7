/**
 * Ticks once a second for every deadline of the page, also while the tab is hidden. Reports the
 * moments at which a socket may have died unnoticed.
 */
import tickUrl from "./tick.worker.ts?worker&url";

const JUMP_MS = 5_000;

interface ScriptUrlPolicy {
  createScriptURL(url: string): unknown;
}
interface TrustedTypesFactory {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): ScriptUrlPolicy;
}

/**
 * Calls `onTick` about once a second, and `onWake` when the page resumes after a pause. Ends with
 * the signal.
 */
export function startClock(onTick: () => void, onWake: () => void, signal: AbortSignal): void {
  let last = Date.now();
  const tick = () => {
    const now = Date.now();
    const jumped = now - last > JUMP_MS;
    last = now;
    if (jumped) onWake();
    onTick();
  };
  const worker = startWorker(tick);
  // The fallback also covers a worker that the browser has frozen.
  const timer = setInterval(tick, worker ? 5_000 : 1_000);
  const visible = () => document.visibilityState === "visible" && onWake();
  document.addEventListener("visibilitychange", visible, { signal });
  window.addEventListener("pageshow", onWake, { signal });
  window.addEventListener("online", onWake, { signal });
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    worker?.terminate();
  });
}

function startWorker(tick: () => void): Worker | null {
  try {
    const trusted = (globalThis as { trustedTypes?: TrustedTypesFactory }).trustedTypes;
    const policy = trusted?.createPolicy("lanyard-clock", { createScriptURL: (url) => url });
    const url = policy ? policy.createScriptURL(tickUrl) : tickUrl;
    const worker = new Worker(url as string, { type: "module" });
    worker.addEventListener("message", tick);
    worker.addEventListener("error", () => worker.terminate());
    return worker;
  } catch {
    return null;
  }
}
