/** Formats sizes, speeds and times: decimal units, at most three figures. */

const UNITS = ["B", "KB", "MB", "GB", "TB"];

export function size(bytes: number): string {
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  return `${figures(value, unit === 0)} ${UNITS[unit]}`;
}

function figures(value: number, whole: boolean): string {
  if (whole || value >= 99.95) return String(Math.round(value));
  return value.toFixed(1);
}

/** Formats as "11.4 of 18.4 GB", with the unit once if both share it. */
export function ofSize(done: number, total: number): string {
  const [had, all] = [size(done), size(total)];
  const [number, unit] = had.split(" ");
  return all.endsWith(` ${unit}`) ? `${number} of ${all}` : `${had} of ${all}`;
}

export function speed(bytesPerSecond: number): string {
  // Tenths of a megabyte per second would only flicker.
  return `${size(bytesPerSecond).replace(/^(\d{2,})\.\d /, "$1 ")}/s`;
}

export function percent(done: number, total: number): number {
  if (total <= 0) return 0;
  return Math.min(100, Math.floor((100 * done) / total));
}

/** Formats as "3 s left", "1 min 23 s left" or "about 2 minutes". */
export function remaining(bytes: number, rate: number): string | null {
  if (rate <= 0) return null;
  const seconds = Math.ceil(bytes / rate);
  if (seconds > 5_400) return `about ${plural(Math.round(seconds / 3_600), "hour")}`;
  if (seconds > 100) return `about ${plural(Math.round(seconds / 60), "minute")}`;
  if (seconds >= 60) return `${Math.floor(seconds / 60)} min ${seconds % 60} s left`;
  return `${seconds} s left`;
}

export function ago(then: number, now: number): string {
  const seconds = Math.floor((now - then) / 1_000);
  if (seconds < 45) return "just now";
  if (seconds < 3_570) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3_600)} h ago`;
  return new Date(then).toLocaleDateString(undefined, { day: "numeric", month: "short" });
}

/** Formats the time since a moment as "0:12". */
export function elapsed(since: number, now: number): string {
  const seconds = Math.max(0, Math.floor((now - since) / 1_000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

const rules = new Intl.PluralRules("en");

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${rules.select(count) === "one" ? one : many}`;
}

/** Splits a fingerprint into groups of four, as it is read aloud. */
export function grouped(hex: string): string {
  return hex.replace(/(.{4})(?=.)/g, "$1 ");
}
