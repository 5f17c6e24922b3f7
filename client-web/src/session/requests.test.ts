// Promises: an answer goes to its own request, once; an answer that was meant for another page of
// this tab goes to nobody.
import { expect, test } from "vitest";
import { REQUEST_TIMEOUT_MS } from "../protocol/limits";
import { Requests } from "./requests";

interface Answer {
  ref?: string;
  what: string;
}

function page(chance: number) {
  let now = 0;
  const heard: string[] = [];
  const requests = new Requests<Answer>(
    () => now,
    () => chance,
  );
  return {
    requests,
    heard,
    ask: () =>
      requests.open({
        answered: ({ what }) => heard.push(what),
        overdue: () => heard.push("overdue"),
      }),
    pass: (ms: number) => {
      now += ms;
      requests.tick();
    },
  };
}

test("an answer arrives once, even after its deadline", () => {
  const { requests, heard, ask, pass } = page(0);
  const [first, second] = [ask(), ask()];
  requests.settle({ ref: second, what: "second" });
  requests.settle({ ref: second, what: "again" });
  pass(REQUEST_TIMEOUT_MS);
  requests.settle({ ref: first, what: "late" });
  expect(heard).toEqual(["second", "overdue", "late"]);
});

test("an answer for the page before this one is ignored", () => {
  const [before, after] = [page(0.25), page(0.5)];
  const stale = before.ask();
  after.ask();
  after.requests.settle({ ref: stale, what: "stale" });
  after.requests.settle({ what: "no ref" });
  expect(after.heard).toEqual([]);
});
