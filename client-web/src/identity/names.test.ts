// Promise: a device is called something its owner recognises, and no name can play tricks on a
// screen.
import { expect, test } from "vitest";
import { defaultName, platformOf, tidyName } from "./names";

const agents = {
  iphone:
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
  pixel:
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
  reduced:
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
  foxdroid: "Mozilla/5.0 (Android 14; Mobile; rv:130.0) Gecko/130.0 Firefox/130.0",
  windows:
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
  edge: "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 Edg/130.0",
  mac: "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
  linux: "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
};

test.each([
  ["iphone", "iPhone", "Safari on iPhone"],
  ["pixel", "Pixel 8", "Chrome on Android"],
  ["reduced", "Android phone", "Chrome on Android"],
  ["foxdroid", "Android phone", "Firefox on Android"],
  ["windows", "Chrome on Windows", "Chrome on Windows"],
  ["edge", "Edge on Windows", "Edge on Windows"],
  ["mac", "Safari on Mac", "Safari on Mac"],
  ["linux", "Firefox on Linux", "Firefox on Linux"],
] as const)("%s is %s", (agent, name, platform) => {
  expect([defaultName(agents[agent]), platformOf(agents[agent])]).toEqual([name, platform]);
});

test("an iPad that claims to be a Mac is called an iPad", () => {
  expect(defaultName(agents.mac, 5)).toBe("iPad");
});

test("names lose control and direction characters and stop at forty visible ones", () => {
  expect(tidyName("  Ana\u202e\u0007’s   iPhone \n")).toBe("Ana ’s iPhone");
  expect(tidyName("👩‍👩‍👧".repeat(50))).toBe(
    "👩‍👩‍👧".repeat(Math.floor(255 / new TextEncoder().encode("👩‍👩‍👧").length)),
  );
  expect([...tidyName("x".repeat(99))]).toHaveLength(40);
  expect(tidyName("\u200b \u2066")).toBe("");
  expect(tidyName(`Z${"\u0301".repeat(120)}oe Việt`)).toBe("Z\u0301\u0301\u0301\u0301oe Việt");
});
