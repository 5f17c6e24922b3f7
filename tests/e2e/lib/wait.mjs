/** Waits for conditions. A timeout only says when to give up. */

export const PATIENCE_MS = 40_000;
const POLL_MS = 40;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Calls the probe until its answer is truthy, and returns the answer.
 *
 * A probe that throws counts as "not yet". The last error is part of the message on giving up.
 */
export async function until(what, probe, patience = PATIENCE_MS) {
  const deadline = Date.now() + patience;
  for (let last; ; await pause(POLL_MS)) {
    try {
      const answer = await probe();
      if (answer) return answer;
      last = undefined;
    } catch (error) {
      if (error?.final) throw error;
      last = error;
    }
    if (Date.now() > deadline)
      throw new Error(`not within ${patience / 1000} s: ${what}`, { cause: last });
  }
}

/** An error that ends the waiting at once. */
export function final(message) {
  return Object.assign(new Error(message), { final: true });
}

/** Waits for a promise, or throws an error that names the missing event. */
export async function within(what, promise, patience = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`not within ${patience / 1000} s: ${what}`)),
      patience,
    );
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
