// Promise: the connection comes back by itself, without a rush, and a dead socket is noticed.
import { beforeEach, describe, expect, test } from "vitest";
import type { RelayToDevice } from "../protocol/wire";
import { delayBefore } from "./backoff";
import { type LinkState, Socket } from "./socket";

class Fake {
  static all: Fake[] = [];
  readyState = 0;
  sent: string[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;
  closedWith: number | undefined;
  constructor() {
    Fake.all.push(this);
  }
  send(text: string) {
    this.sent.push(text);
  }
  close(code: number) {
    this.closedWith = code;
  }
  opens() {
    this.readyState = 1;
    this.onopen?.();
  }
}

let now = 0;
let closed: number[] = [];
let states: LinkState[] = [];
let socket: Socket<RelayToDevice>;
const last = () => Fake.all.at(-1) as Fake;

beforeEach(() => {
  Fake.all = [];
  now = 0;
  closed = [];
  states = [];
  socket = new Socket<RelayToDevice>(
    "ws://x",
    {
      message: () => undefined,
      closed: (code) => closed.push(code),
      state: (state) => states.push(state),
    },
    { now: () => now, chance: () => 0.5, open: () => new Fake() as unknown as WebSocket },
  );
  socket.connect();
});

describe("after a loss", () => {
  test("waiting times double until somebody settles", () => {
    const waits: number[] = [];
    for (let round = 0; round < 4; round += 1) {
      last().onclose?.({ code: 1006 });
      const state = socket.state;
      if (state.at !== "waiting") throw new Error("not waiting");
      waits.push(state.retryAt - now);
      now = state.retryAt;
      socket.tick();
    }
    expect(waits).toEqual([125, 250, 500, 1_000]);
    last().opens();
    socket.settled();
    last().onclose?.({ code: 1006 });
    expect(socket.state).toMatchObject({ at: "waiting", attempt: 1 });
    expect(closed).toHaveLength(5);
  });

  test("a wake tries at once", () => {
    last().onclose?.({ code: 1006 });
    socket.wake();
    expect(Fake.all).toHaveLength(2);
  });

  test("the close event of an old socket does not affect its successor", () => {
    const old = last();
    const goodbye = old.onclose;
    socket.connect();
    last().opens();
    goodbye?.({ code: 1006 });
    old.onclose?.({ code: 1006 });
    expect(old.closedWith).toBe(1000);
    expect(old.onclose).toBeNull();
  });

  test("after halt it does not reconnect", () => {
    socket.halt();
    now = 1e9;
    socket.tick();
    expect(Fake.all).toHaveLength(1);
    expect(socket.state).toEqual({ at: "idle" });
  });
});

describe("silence", () => {
  beforeEach(() => last().opens());

  test("is answered with a PING after 3 s, and ends the connection after 10 more", () => {
    now = 3_000;
    socket.tick();
    expect(last().sent).toEqual([]);
    now = 3_001;
    socket.tick();
    expect(last().sent).toEqual(['{"opcode":"PING","data":{}}']);
    now = 13_000;
    socket.tick();
    expect(closed).toEqual([]);
    now = 13_001;
    socket.tick();
    expect(closed).toHaveLength(1);
  });

  test("after waking up ends the connection within five seconds", () => {
    socket.wake();
    now = 5_000;
    socket.tick();
    expect(socket.state.at).toBe("waiting");
  });

  test("any frame is a sign of life", () => {
    socket.wake();
    last().onmessage?.({ data: '{"opcode":"PONG","data":{}}' });
    now = 6_000;
    socket.tick();
    expect(socket.state.at).toBe("open");
  });
});

test("a connection that never opens is abandoned", () => {
  now = 10_000;
  socket.tick();
  expect(socket.state.at).toBe("waiting");
});

test("nothing is sent while nothing is open", () => {
  expect(socket.send({ opcode: "PING", data: {} })).toBe(false);
  last().opens();
  expect(socket.send({ opcode: "PING", data: {} }, "r1")).toBe(true);
  expect(last().sent).toEqual(['{"opcode":"PING","data":{},"ref":"r1"}']);
});

test("the wait has full jitter and a cap", () => {
  expect([
    delayBefore(0, 0),
    delayBefore(0, 0.999),
    delayBefore(3, 0.5),
    delayBefore(500, 0.999),
  ]).toEqual([0, 249, 1_000, 14_985]);
});
