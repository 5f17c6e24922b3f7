/**
 * Ticks from a worker: in a hidden tab the timers of the main thread stop, those of a worker do
 * not.
 */
setInterval(() => postMessage(0), 1_000);
