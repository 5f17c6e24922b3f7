/** Suggests a name for a device, and makes names safe to show. */
import { MAX_NAME_BYTES, MAX_NAME_SHOWN } from "../protocol/limits";

const BROWSERS: [RegExp, string][] = [
  [/\bEdg(?:e|A|iOS)?\//, "Edge"],
  [/\bOPR\/|\bOpera\b/, "Opera"],
  [/\bSamsungBrowser\//, "Samsung Internet"],
  [/\bFirefox\/|\bFxiOS\//, "Firefox"],
  [/Chrome\/|\bCriOS\/|\bChromium\//, "Chrome"],
  [/\bSafari\//, "Safari"],
];

/** Recent iPads claim to be Macs. Touch tells them apart. */
export function systemOf(agent: string, touchPoints = 0): string {
  if (/\biPhone\b/.test(agent)) return "iPhone";
  if (/\biPad\b/.test(agent) || (/\bMacintosh\b/.test(agent) && touchPoints > 1)) return "iPad";
  if (/\bAndroid\b/.test(agent)) return "Android";
  if (/\bWindows\b/.test(agent)) return "Windows";
  if (/\bMac OS X\b|\bMacintosh\b/.test(agent)) return "Mac";
  if (/\bCrOS\b/.test(agent)) return "ChromeOS";
  if (/\bLinux\b|\bX11\b/.test(agent)) return "Linux";
  return "";
}

export function browserOf(agent: string): string {
  return BROWSERS.find(([pattern]) => pattern.test(agent))?.[1] ?? "Browser";
}

/** Returns the `platform` of the wire, such as "Chrome on Windows". */
export function platformOf(agent: string, touchPoints = 0): string {
  const system = systemOf(agent, touchPoints);
  return system ? `${browserOf(agent)} on ${system}` : browserOf(agent);
}

/**
 * Returns the suggested name on a first visit, such as "iPhone", "Pixel 8" or "Chrome on Windows".
 */
export function defaultName(agent: string, touchPoints = 0): string {
  const system = systemOf(agent, touchPoints);
  if (system === "iPhone" || system === "iPad") return system;
  const model = /Android [\d.]+; ([^;)]+?)(?: Build\/[^;)]*)?[;)]/.exec(agent)?.[1]?.trim();
  if (model && model !== "K" && !/^(Mobile|Tablet|wv|rv:.*)$/.test(model)) return tidyName(model);
  if (system === "Android") return "Android phone";
  return platformOf(agent, touchPoints);
}

/**
 * Trims a name, removes control and direction characters, keeps at most four marks a letter, and
 * cuts it to the length that a screen shows.
 */
export function tidyName(raw: string): string {
  const clean = raw
    .replace(/(?!\u200d)\p{Cf}/gu, "")
    .replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, " ")
    .replace(/(\p{M}{4})\p{M}+/gu, "$1")
    .trim();
  const shown: string[] = [];
  for (const { segment } of segments(clean)) {
    if (shown.length === MAX_NAME_SHOWN || utf8Length(shown.join("") + segment) > MAX_NAME_BYTES)
      break;
    shown.push(segment);
  }
  return shown.join("").trim();
}

function segments(text: string): Iterable<{ segment: string }> {
  if (typeof Intl.Segmenter === "function") return new Intl.Segmenter().segment(text);
  return Array.from(text, (segment) => ({ segment }));
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}
