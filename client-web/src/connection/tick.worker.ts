/** A clock that a hidden tab keeps: main-thread timers stop there, a worker's do not. */
setInterval(() => postMessage(0), 1_000);
