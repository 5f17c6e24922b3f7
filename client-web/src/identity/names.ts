/** What a device calls itself before anybody has named it, and how names are kept showable. */
import { MAX_NAME_BYTES, MAX_NAME_SHOWN } from "../protocol/limits";

const BROWSERS: [RegExp, string][] = [
  [/\bEdg(?:e|A|iOS)?\//, "Edge"],
  [/\bOPR\/|\bOpera\b/, "Opera"],
  [/\bSamsungBrowser\//, "Samsung Internet"],
  [/\bFirefox\/|\bFxiOS\//, "Firefox"],
  [/Chrome\/|\bCriOS\/|\bChromium\//, "Chrome"],
  [/\bSafari\//, "Safari"],
];

/** iPads of late say that they are Macs; touch gives them away. */
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

/** "Chrome on Windows": the `platform` of the wire. */
export function platformOf(agent: string, touchPoints = 0): string {
  const system = systemOf(agent, touchPoints);
  return system ? `${browserOf(agent)} on ${system}` : browserOf(agent);
}

/** "iPhone", "Pixel 8", "Chrome on Windows": the name in the field on a first visit. */
export function defaultName(agent: string, touchPoints = 0): string {
  const system = systemOf(agent, touchPoints);
  if (system === "iPhone" || system === "iPad") return system;
  const model = /Android [\d.]+; ([^;)]+?)(?: Build\/[^;)]*)?[;)]/.exec(agent)?.[1]?.trim();
  if (model && model !== "K" && !/^(Mobile|Tablet|wv|rv:.*)$/.test(model)) return tidyName(model);
  if (system === "Android") return "Android phone";
  return platformOf(agent, touchPoints);
}

/** Trimmed, without control and direction characters, with four marks a letter, at most as long as a screen shows. */
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
