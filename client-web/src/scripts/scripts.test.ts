// Promise: the page does what protocol/vectors/scripts/*.json says, and so does the native device
// (hub/tests/scripts plays the same files).
import { readFileSync, readdirSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import type { Door } from "../identity/memory";
import { Page } from "./page";
import { type Json, type Names, difference, isSame, resolved } from "./pattern";

interface Step {
  why?: string;
  only?: "page" | "native";
  hub?: Json;
  person?: Json;
  clock?: number;
  line?: Json;
  body?: Json;
  sends?: Json[];
  shows?: { [what: string]: Json };
}

interface Script {
  promise: string;
  rules: string;
  after?: string;
  remembers?: Door;
  /** Values that the steps name. */
  names?: { [name: string]: Json };
  steps: Step[];
}

const FOLDER = resolve(process.cwd(), "../protocol/vectors/scripts");
const NAMES = readdirSync(FOLDER)
  .map((file) => file.replace(/\.json$/, ""))
  .sort();

function read(name: string): Script {
  return JSON.parse(readFileSync(resolve(FOLDER, `${name}.json`), "utf8")) as Script;
}

function stepsOf(name: string): Step[] {
  const { after, steps } = read(name);
  return after === undefined ? steps : [...stepsOf(after), ...steps];
}

function nameAll(name: string, known: Names): void {
  const { after, names } = read(name);
  if (after !== undefined) nameAll(after, known);
  for (const [key, value] of Object.entries(names ?? {})) known.set(key, resolved(value, known));
}

/** The page of the first script in a row, as it was when it was last open. */
function doorOf(name: string): Door {
  const { after, remembers } = read(name);
  return remembers ?? (after === undefined ? "approved" : doorOf(after));
}

async function play(page: Page, step: Step): Promise<void> {
  const { names } = page;
  if (step.hub !== undefined) page.hear(resolved(step.hub, names));
  else if (step.person !== undefined) {
    // A person acts on what is on the screen.
    await page.drawn();
    page.person(resolved(step.person, names));
  } else if (step.clock !== undefined) await page.wait(step.clock);
  else if (step.line !== undefined) page.line(step.line);
  const patterns = step.sends ?? [];
  const sent = await page.sent();
  if (sent.length !== patterns.length)
    throw new Error(`${patterns.length} frames expected, sent were ${JSON.stringify(sent)}`);
  for (const [at, pattern] of patterns.entries()) {
    const why = difference(pattern, sent[at] ?? null, names);
    if (why !== null) throw new Error(`${why}\nin ${JSON.stringify(sent[at])}`);
  }
  if (step.shows === undefined) return;
  await page.drawn();
  for (const [what, wanted] of Object.entries(step.shows)) {
    const shown = page.shows(what);
    if (!isSame(shown, resolved(wanted, names)))
      throw new Error(`shows ${what}: ${JSON.stringify(shown)}, not ${JSON.stringify(wanted)}`);
  }
}

describe("the page follows the script", () => {
  test.each(NAMES)("%s", async (name) => {
    const page = new Page(doorOf(name));
    try {
      nameAll(name, page.names);
      for (const [at, step] of stepsOf(name).entries()) {
        if (step.only === "native") continue;
        await play(page, step).catch((error: unknown) => {
          throw new Error(
            `${name}, step ${at}: ${error instanceof Error ? error.message : String(error)}`,
          );
        });
      }
    } finally {
      page.close();
    }
  });

  test("there are at least ten", () => expect(NAMES.length).toBeGreaterThanOrEqual(10));
});

// A runner that accepts everything would pass all scripts.
describe("a pattern says exactly what may come", () => {
  const frame = { opcode: "A", ref: "1", data: { n: 1, list: ["x", "y"] } };
  const names = (): Names =>
    new Map([
      ["one", "1"],
      ["x", "x"],
    ]);

  test("names and wildcards", () => {
    const fresh: Names = new Map([["one", "1"]]);
    expect(
      difference({ opcode: "A", ref: "$one", data: { n: "*", list: ["$x", "y"] } }, frame, fresh),
    ).toBeNull();
    expect(fresh.get("x")).toBe("x");
  });

  test.each<Json>([
    { opcode: "A", data: "*" },
    { opcode: "A", ref: "$x", data: "*" },
    { opcode: "A", ref: "1", data: { n: 1, list: ["x"] } },
    { opcode: "A", ref: "1", data: { n: 1, list: ["x", "y"], m: 1 } },
    { opcode: "A", ref: { not: "$one" }, data: "*" },
  ])("not %j", (pattern) => expect(difference(pattern, frame, names())).not.toBeNull());
});
