/** Measures the memory of processes on Linux. On other systems the figures are left out. */
import { readFileSync, readdirSync } from "node:fs";
import { pause } from "./wait.mjs";

export const canMeasure = process.platform === "linux";

function read(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function kib(text, name) {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text);
  return found ? Number(found[1]) * 1024 : 0;
}

/** Returns the process and all its descendants. */
export function family(pid) {
  const children = new Map();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = read(`/proc/${entry}/stat`);
    const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    if (stat) children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
  }
  const all = [pid];
  for (const one of all) all.push(...(children.get(one) ?? []));
  return all;
}

/** Returns the root of a browser's processes, found by its profile. */
export function browserPid(profile) {
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const args = read(`/proc/${entry}/cmdline`).split("\0");
    if (
      args.includes(`--user-data-dir=${profile}`) &&
      !args.some((arg) => arg.startsWith("--type="))
    )
      return Number(entry);
  }
  return null;
}

/** Returns the proportional memory of a process and all its descendants. */
export function pssOf(pid) {
  return family(pid).reduce((sum, one) => sum + kib(read(`/proc/${one}/smaps_rollup`), "Pss"), 0);
}

export function rssOf(pid) {
  return kib(read(`/proc/${pid}/status`), "VmRSS");
}

/** Returns the peak memory of a process. */
export function peakRssOf(pid) {
  return kib(read(`/proc/${pid}/status`), "VmHWM");
}

/** Samples while `work` runs and returns its result and the highest value. */
export async function peakWhile(sample, work) {
  let done = false;
  let peak = canMeasure ? sample() : 0;
  const watching = (async () => {
    while (canMeasure && !done) {
      peak = Math.max(peak, sample());
      await pause(150);
    }
  })();
  try {
    return { result: await work(), peak };
  } finally {
    done = true;
    await watching;
  }
}
