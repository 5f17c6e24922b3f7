// Promise: each screen shows its content under the names that people look for, and axe finds
// nothing.
import { cleanup, fireEvent, render, screen } from "@testing-library/svelte";
import axe from "axe-core";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import App from "../App.svelte";
import Console from "../Console.svelte";
import { OperatorStore, type OperatorActions } from "../console/store.svelte";
import type { FileItem } from "../catalogue/catalogue";
import type { Download } from "../downloads/downloads";
import type { OwnLink } from "../downloads/links";
import { HubStore, type Actions } from "../store.svelte";

/** Actions that only record their calls. */
function recorder<Face extends object>(): Face {
  const calls: Record<string | symbol, unknown> = {};
  return new Proxy(calls, { get: (all, name) => (all[name] ??= vi.fn()) }) as Face;
}

async function violations(): Promise<string[]> {
  // Contrast needs layout, which only a real browser has.
  const { violations: found } = await axe.run(document.body, {
    rules: { "color-contrast": { enabled: false }, region: { enabled: false } },
  });
  return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

const ANA = "00000001-0000-8000-8000-000000000000";
const ME = "00000002-0000-8000-8000-000000000000";

function item(more: Partial<FileItem> & { name: string }): FileItem {
  const blank = {
    kind: "file",
    owner: ANA,
    size: 8_700_000,
    modified_ms: 1,
    media_type: "",
    media: "photo",
    root: undefined,
    seq: 1,
    mine: false,
    listed: true,
    offer: null,
    problem: undefined,
    gone: null,
  } as const;
  const owner = more.owner ?? ANA;
  return { ...blank, key: `${owner}/${more.name}`, file_id: more.name, path: more.name, ...more };
}

let actions: Actions;
let hub: HubStore;
beforeEach(() => {
  vi.stubGlobal("matchMedia", () => ({
    matches: false,
    addEventListener: () => undefined,
    removeEventListener: () => undefined,
  }));
  // The window of the list has no height here, so it is given one.
  Object.defineProperty(HTMLElement.prototype, "clientHeight", {
    configurable: true,
    get: () => 600,
  });
  actions = recorder<Actions>();
  hub = new HubStore(actions);
  hub.hub = { name: "Studio PC" };
  hub.name = "Pixel 8";
});
afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});
const show = () => render(App, { hub });

describe("before the shelf", () => {
  test("the door has one filled field and one button", async () => {
    hub.screen = { at: "door" };
    show();
    expect(screen.getByRole("heading", { name: "You’re at the door of Studio PC" })).toBeTruthy();
    expect(screen.getByRole("textbox", { name: "This device" })).toHaveProperty("value", "Pixel 8");
    await fireEvent.click(screen.getByRole("button", { name: "Knock" }));
    expect(actions.knock).toHaveBeenCalledWith("Pixel 8");
    expect(await violations()).toEqual([]);
  });

  test("the code is read digit by digit", async () => {
    hub.screen = { at: "knocking", since: Date.now(), code: "471208" };
    hub.link = { at: "open" };
    show();
    expect(screen.getByRole("img", { name: "4 7 1 2 0 8" }).textContent).toBe("471\u00a0208");
    expect(
      screen.getByRole("heading", { name: "Read these digits to the person at Studio PC" }),
    ).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Stop knocking" }));
    expect(actions.stopKnocking).toHaveBeenCalled();
    expect(await violations()).toEqual([]);
  });

  test("after a minute without an answer the page says so", () => {
    hub.screen = { at: "knocking", since: Date.now() - 61_000, code: null };
    hub.link = { at: "open" };
    show();
    expect(screen.getByText("Nobody has answered yet. Is anyone at Studio PC?")).toBeTruthy();
  });

  test("without digits the page tells of a crowd, and of nothing worse", async () => {
    hub.screen = {
      at: "knocking",
      since: Date.now() - 90_000,
      asked: Date.now() - 6_000,
      code: null,
    };
    hub.link = { at: "open" };
    hub.hubReady = hub.registered = true;
    show();
    expect(screen.getByRole("heading", { name: "A lot of people are knocking" })).toBeTruthy();
    expect(
      screen.getByText(
        "Your six digits will appear here when it’s your turn. Keep this page open.",
      ),
    ).toBeTruthy();
    expect(screen.queryByText(/Nobody has answered yet/)).toBeNull();
    expect(await violations()).toEqual([]);
  });

  test("after three unopened reveals a person is asked and may try again", async () => {
    hub.screen = { at: "stopped", why: "not-opened" };
    show();
    expect(screen.getByText(/Someone could be in between/)).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Try again" }));
    expect(actions.tryNow).toHaveBeenCalled();
    expect(await violations()).toEqual([]);
  });

  test("turned away is final: no button, no way to try again", async () => {
    hub.screen = { at: "refused" };
    show();
    expect(screen.getByRole("heading", { name: "You don’t have access" })).toBeTruthy();
    expect(screen.queryAllByRole("button")).toEqual([]);
    expect(await violations()).toEqual([]);
  });

  test("a hub with another key shows both fingerprints", () => {
    hub.screen = {
      at: "key-mismatch",
      known: "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
      offered: "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394",
    };
    show();
    expect(screen.getByText("8356 1adb 398f d87f 8e7e d833 1bff 2fcb")).toBeTruthy();
    expect(screen.getByText("1eed 29b1 654f bca9 4617 004d 7969 dfc4")).toBeTruthy();
  });

  test("a browser that cannot keep a key gets an explanation", () => {
    hub.screen = { at: "unable", why: "it has no database." };
    show();
    expect(screen.getByRole("heading", { name: "This browser cannot keep a key" })).toBeTruthy();
  });

  test("without a list, an absent host fills the screen and tells what happens next", async () => {
    hub.screen = { at: "inside" };
    hub.link = { at: "waiting", attempt: 3, retryAt: Date.now() + 4_000 };
    show();
    expect(screen.getByRole("heading", { name: "Studio PC stepped away" })).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Try now" }));
    expect(actions.tryNow).toHaveBeenCalled();
  });
});

describe("the shelf", () => {
  const download = (more: Partial<Download>): Download => ({
    id: "d",
    subject: `${ANA}/Ridge walk.jpg`,
    title: "Ridge walk.jpg",
    files: [{ public_id: ANA, file_id: "x" }],
    zip: false,
    size: 100,
    state: "running",
    link: "l",
    url: "/d/l/x",
    done: 62,
    rate: 10,
    startedMs: 0,
    heardMs: 0,
    endedMs: null,
    problem: null,
    ...more,
  });

  beforeEach(() => {
    hub.screen = { at: "inside" };
    hub.link = { at: "open" };
    hub.hubReady = hub.entered = hub.loaded = true;
    hub.me = ME;
    hub.clients = [
      { public_id: ANA, name: "Ana’s iPhone", kind: "browser", platform: "Safari on iPhone" },
      { public_id: ME, name: "Pixel 8", kind: "browser", platform: "" },
    ];
    hub.online = new Set([ANA, ME]);
    hub.files = [
      item({ name: "Ridge walk.jpg" }),
      item({ name: "a.pdf", path: "Tax 2025/a.pdf" }),
      item({ name: "mine.txt", owner: ME, mine: true, offer: "shared" }),
      item({ name: "new.txt", owner: ME, mine: true, offer: "syncing", listed: false }),
    ];
  });

  test("rows, people and buttons are found by role and name", async () => {
    show();
    for (const name of ["Ridge walk.jpg", "Tax 2025", "mine.txt", "new.txt"])
      expect(screen.getByRole("row", { name })).toBeTruthy();
    expect(screen.getByRole("button", { name: /Ana’s iPhone/ })).toBeTruthy();
    expect(screen.getByText("Adding to the list…")).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Download Ridge walk.jpg" }));
    expect(actions.download).toHaveBeenCalledWith(
      [hub.files[0]],
      "Ridge walk.jpg",
      `${ANA}/Ridge walk.jpg`,
    );
    await fireEvent.click(screen.getByRole("button", { name: "Stop sharing mine.txt" }));
    expect(actions.stopSharing).toHaveBeenCalledWith(["mine.txt"]);
    expect(await violations()).toEqual([]);
  });

  test("a folder opens, and downloads as one", async () => {
    show();
    await fireEvent.click(screen.getByRole("button", { name: "Download Tax 2025 as zip" }));
    expect(actions.download).toHaveBeenCalledWith([hub.files[1]], "Tax 2025", `${ANA}/Tax 2025/`, {
      public_id: ANA,
      path: "Tax 2025",
    });
    await fireEvent.click(screen.getByRole("button", { name: "Tax 2025" }));
    expect(screen.getByRole("row", { name: "a.pdf" })).toBeTruthy();
    expect(screen.queryByRole("row", { name: "Ridge walk.jpg" })).toBeNull();
  });

  test("a selection becomes one download", async () => {
    show();
    await fireEvent.click(screen.getByRole("checkbox", { name: "Select Ridge walk.jpg" }));
    await fireEvent.click(screen.getByRole("checkbox", { name: "Select Tax 2025" }));
    await fireEvent.click(screen.getByRole("button", { name: "Download 2" }));
    expect(actions.download).toHaveBeenCalledWith(
      expect.arrayContaining([hub.files[0], hub.files[1]]),
      "2 files",
      "selection",
    );
  });

  test("keys walk the list: space selects, enter opens", async () => {
    show();
    const row = screen.getByRole("row", { name: "Tax 2025" });
    await fireEvent.keyDown(row, { key: " " });
    expect(hub.selected.size).toBe(1);
    expect(screen.getAllByRole("row").filter((one) => one.tabIndex === 0)).toHaveLength(1);
  });

  test("an arriving file shows its progress and can be cancelled", async () => {
    hub.downloads = [download({})];
    show();
    expect(
      screen
        .getByRole("progressbar", { name: "Downloading: Ridge walk.jpg" })
        .getAttribute("aria-valuenow"),
    ).toBe("62");
    await fireEvent.click(screen.getByRole("button", { name: "Cancel Ridge walk.jpg" }));
    expect(actions.cancel).toHaveBeenCalledWith("d");
    expect(await violations()).toEqual([]);
  });

  test("the row of an absent owner says what the download waits for", () => {
    hub.online = new Set([ME]);
    hub.downloads = [download({ state: "waiting" })];
    show();
    expect(screen.getByText("Waiting for Ana’s iPhone")).toBeTruthy();
    expect(screen.getByText("will continue")).toBeTruthy();
  });

  test("a device that downloads a file is named, and stopping asks first", async () => {
    hub.outgoing = new Map([
      [
        "mine.txt",
        [
          {
            asker: ANA,
            file_id: "mine.txt",
            done: 38,
            total: 100,
            rate: 1,
            state: "running",
            heardMs: 0,
          },
        ],
      ],
    ]);
    show();
    expect(screen.getByText("Ana’s iPhone is downloading this")).toBeTruthy();
    expect(screen.getAllByText("Sending 1 file. Keep this page open.").length).toBeGreaterThan(0);
    HTMLDialogElement.prototype.showModal = function () {
      this.open = true;
    };
    await fireEvent.click(screen.getByRole("button", { name: "Stop sharing mine.txt" }));
    expect(actions.stopSharing).not.toHaveBeenCalled();
    expect(screen.getByText(/has 38 % and would have to start over/)).toBeTruthy();
  });

  test("while the hub is away the list stays, and actions that need the hub are disabled", () => {
    hub.link = { at: "waiting", attempt: 1, retryAt: Date.now() + 4_000 };
    show();
    expect(screen.getByText(/Studio PC stepped away. Trying again in/)).toBeTruthy();
    expect(screen.getByRole("button", { name: "Download Ridge walk.jpg" })).toHaveProperty(
      "disabled",
      true,
    );
  });

  test("an empty shelf invites to share", () => {
    hub.files = [];
    show();
    expect(screen.getByRole("heading", { name: "Nothing shared yet" })).toBeTruthy();
    expect(screen.getByRole("button", { name: "Share the first file" })).toBeTruthy();
  });

  const own = (more: Partial<OwnLink> & { link_hash: string }): OwnLink => ({
    public_id: ME,
    name: "Tax 2025.zip",
    files: 0,
    made_ms: 1,
    expires_ms: hub.now + 7_200_000,
    url: `/d/${more.link_hash}/x`,
    ...more,
  });

  test("links are listed, copied and ended; an empty, absent or broken list says so", async () => {
    hub.links = [
      own({ link_hash: "a", ends: true, uses_left: 3 }),
      own({ link_hash: "b", name: "b.jpg", files: 1, url: null }),
    ];
    hub.linksState = "known";
    show();
    await fireEvent.click(screen.getByRole("button", { name: "Your links" }));
    expect(actions.loadLinks).toHaveBeenCalled();
    expect(screen.getByText("Ends in 2 hours · 3 downloads left")).toBeTruthy();
    expect(screen.getByText("Ends when unused for 2 hours")).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Copy link to Tax 2025.zip" }));
    expect(actions.copyAgain).toHaveBeenCalledWith(hub.links[0]);
    expect(screen.queryByRole("button", { name: "Copy link to b.jpg" })).toBeNull();
    await fireEvent.click(screen.getByRole("button", { name: "End link to b.jpg" }));
    expect(actions.dropLink).toHaveBeenCalledWith(hub.links[1]);
    expect(await violations()).toEqual([]);
    // A person who ends links by keyboard continues where the row was.
    const last = screen.getByRole("button", { name: "End link to b.jpg" });
    last.focus();
    await fireEvent.click(last);
    hub.links = hub.links.slice(0, 1);
    const first = screen.getByRole("button", { name: "End link to Tax 2025.zip" });
    await vi.waitFor(() => expect(document.activeElement).toBe(first));
    await fireEvent.click(first);
    hub.links = [];
    expect(await screen.findByText(/No links yet/)).toBeTruthy();
    expect(document.activeElement).toBe(screen.getByRole("list", { name: "Links" }));
    hub.linksState = "failed";
    await fireEvent.click(await screen.findByRole("button", { name: "Try again" }));
    hub.hubReady = false;
    expect(await screen.findByText(/can’t be reached right now/)).toBeTruthy();
  });

  test("a limited link asks how long and how often", async () => {
    show();
    // The test's DOM has no top layer, so the menu gets its event by hand.
    const menu = Object.assign(
      screen.getByRole("menu", { name: "More for Tax 2025", hidden: true }),
      { hidePopover: () => undefined },
    );
    menu.dispatchEvent(Object.assign(new Event("toggle"), { newState: "open" }));
    await fireEvent.click(
      await screen.findByRole("menuitem", { name: "Limited link…", hidden: true }),
    );
    expect(await violations()).toEqual([]);
    await fireEvent.change(screen.getByRole("combobox", { name: "Ends" }), {
      target: { value: "3600000" },
    });
    await fireEvent.change(screen.getByRole("combobox", { name: "Downloads" }), {
      target: { value: "5" },
    });
    await fireEvent.click(screen.getByRole("button", { name: "Copy link" }));
    expect(actions.copyLink).toHaveBeenCalledWith(
      [hub.files[1]],
      "Tax 2025",
      { public_id: ANA, path: "Tax 2025" },
      { validMs: 3_600_000, uses: 5 },
    );
  });
});

describe("the console", () => {
  const knock = {
    request_id: "r1",
    public_id: ANA,
    name: "Ana’s iPhone",
    kind: "browser",
    platform: "Safari on iPhone",
    address: "192.168.1.34",
    asked_ms: Date.now(),
    tries_left: 3,
  } as const;
  let operatorActions: OperatorActions;
  let operator: OperatorStore;

  beforeEach(() => {
    operatorActions = recorder<OperatorActions>();
    operator = new OperatorStore(operatorActions);
    operator.page = "open";
    operator.link = { at: "open" };
    operator.hub = { name: "Marta’s home" };
    operator.urls = ["http://192.168.1.20:7070/"];
    operator.me = ME;
    operator.loaded = true;
    operator.clients = hub.clients = [
      { public_id: ME, name: "Studio PC", kind: "master", platform: "" },
      {
        public_id: "00000003-0000-8000-8000-000000000000",
        name: "Jonas’s laptop",
        kind: "native",
        platform: "Linux",
      },
    ];
    operator.online = new Set([ME, "00000003-0000-8000-8000-000000000000"]);
  });

  test("a device can be let in only after six digits", async () => {
    operator.joinRequests = [knock];
    render(Console, { operator });
    const letIn = screen.getByRole("button", { name: "Let in" });
    expect(letIn).toHaveProperty("disabled", true);
    expect(document.activeElement).toBe(screen.getByRole("textbox", { name: "Six-digit code" }));
    await fireEvent.input(screen.getByRole("textbox", { name: "Six-digit code" }), {
      target: { value: "471208" },
    });
    expect(operatorActions.type).toHaveBeenCalledWith("471208");
    operator.typing = { request: "r1", digits: "471208", wrong: null };
    await vi.waitFor(() => expect(letIn).toHaveProperty("disabled", false));
    await fireEvent.click(letIn);
    expect(operatorActions.letIn).toHaveBeenCalled();
    expect(await violations()).toEqual([]);
  });

  test("a device that left is shown for a moment and cannot be let in", async () => {
    operator.joinRequests = [{ ...knock, left: true }];
    render(Console, { operator });
    expect(screen.getByText("Someone knocked and left")).toBeTruthy();
    expect(screen.queryByRole("button", { name: "Let in" })).toBeNull();
    await fireEvent.click(screen.getByRole("button", { name: "Turn away" }));
    expect(operatorActions.turnAway).toHaveBeenCalledWith(ANA);
    expect(await violations()).toEqual([]);
  });

  test("a waiting crowd is counted, with a button to be asked about more", async () => {
    operator.joinRequests = [knock];
    operator.alsoWaiting = 14;
    const { unmount } = render(Console, { operator });
    expect(screen.getByText(/14 more devices are waiting/)).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "Allow more for ten minutes" }));
    expect(operatorActions.allowMore).toHaveBeenCalled();
    expect(await violations()).toEqual([]);
    unmount();
    operator.alsoWaiting = 0;
    operator.moreUntil = Date.now() + 8.5 * 60_000;
    render(Console, { operator });
    expect(screen.getByText(/More devices can ask for the next 9 minutes/)).toBeTruthy();
    expect(screen.queryByRole("button", { name: "Allow more for ten minutes" })).toBeNull();
  });

  test("turning away needs no digits, and asks again for a device inside", async () => {
    operator.joinRequests = [knock];
    render(Console, { operator });
    await fireEvent.click(screen.getByRole("button", { name: "Turn away" }));
    expect(operatorActions.turnAway).toHaveBeenCalledWith(ANA);
    HTMLDialogElement.prototype.showModal = function () {
      this.open = true;
    };
    await fireEvent.click(screen.getByRole("button", { name: "Turn away Jonas’s laptop" }));
    expect(operatorActions.turnAway).toHaveBeenCalledTimes(1);
  });

  test("a waiting device can be answered first, a flood turned away at once", async () => {
    const flood = Array.from({ length: 5 }, (_, number) => ({
      ...knock,
      request_id: `f${number}`,
      public_id: `flood${number}`,
      name: `Bot ${number}`,
      address: "192.168.1.66",
    }));
    operator.joinRequests = [
      knock,
      { ...knock, request_id: "r2", public_id: "jonas", name: "Jonas" },
      ...flood,
    ];
    render(Console, { operator });
    await fireEvent.click(screen.getByRole("button", { name: "Answer now: Jonas" }));
    expect(operatorActions.seeTo).toHaveBeenCalledWith("jonas");
    expect(screen.queryByText("Bot 3")).toBeNull();
    // A school class behind one address is not a flood: the first to read their digits can be
    // answered first.
    await fireEvent.click(screen.getByRole("button", { name: "Show them" }));
    await fireEvent.click(screen.getByRole("button", { name: "Answer now: Bot 3" }));
    expect(operatorActions.seeTo).toHaveBeenLastCalledWith("flood3");
    expect(await violations()).toEqual([]);
    await fireEvent.click(
      screen.getByRole("button", { name: "Turn away 5 devices at 192.168.1.66" }),
    );
    expect(vi.mocked(operatorActions.turnAway).mock.calls.flat()).toEqual(
      flood.map(({ public_id }) => public_id),
    );
    expect(await violations()).toEqual([]);
  });

  test("the usage of each device is one click away", async () => {
    const usage = {
      bytes: 12_100_000,
      limit_bytes: 268_435_456,
      device_limit_bytes: 67_108_864,
      devices: [{ public_id: ANA, name: "Ana", bytes: 12_000_000 }],
    };
    vi.mocked(operatorActions.usage).mockResolvedValue(usage);
    HTMLDialogElement.prototype.showModal = function () {
      this.open = true;
    };
    render(Console, { operator });
    await fireEvent.click(screen.getByRole("button", { name: "Room left" }));
    expect(await screen.findByText(/^.Ana.: 12\.0 MB of 67\.1 MB/)).toBeTruthy();
    expect(screen.getByText(/The list of files and links takes 12\.1 MB of 268 MB/)).toBeTruthy();
    expect(await violations()).toEqual([]);
  });

  test("no digits are asked for after a device left", () => {
    operator.joinRequests = [{ ...knock, left: true, tries_left: 2 }];
    operator.typing = { ...operator.typing, wrong: "That isn’t the code on their screen." };
    render(Console, { operator });
    expect(screen.getByText(/Left before you answered/)).toBeTruthy();
    expect(screen.queryByText(/not the code on their screen/)).toBeNull();
  });

  test("a name already in use shows a warning", () => {
    operator.joinRequests = [{ ...knock, looks_like: "Ana’s iPhone" }];
    render(Console, { operator });
    expect(screen.getByText(/who is already here/)).toBeTruthy();
  });

  test("problems are shown in words, with advice", async () => {
    operator.problems = [
      {
        code: "database_full",
        what: "There is no room to write down what you decide.",
        advice: "Make room on the disk that holds the hub’s folder.",
        since_ms: Date.now(),
      },
      {
        code: "no_network",
        what: "This computer is on no network.",
        advice: "Connect it.",
        since_ms: Date.now(),
      },
    ];
    render(Console, { operator });
    expect(
      screen.getByText(/There is no room to write down what you decide/).textContent,
    ).toContain("And 1 more thing.");
    await fireEvent.click(screen.getByRole("button", { name: "What to do" }));
    const list = screen.getByRole("list", { name: "Problems" });
    expect(list.textContent).toContain("Make room on the disk");
    expect(list.textContent).toContain("This computer is on no network.");
    expect(await violations()).toEqual([]);
  });

  test("without problems the page says that everything is working", async () => {
    render(Console, { operator });
    await fireEvent.click(screen.getByRole("button", { name: /hub status/ }));
    expect(screen.getByRole("list", { name: "Problems" }).textContent).toContain(
      "Everything is working.",
    );
  });

  test("a used link says how to get another", () => {
    operator.page = "denied";
    render(Console, { operator });
    expect(screen.getByRole("heading", { name: "This console link has expired" })).toBeTruthy();
  });

  test("the host sees and ends everybody's links", async () => {
    operator.links = [
      {
        link_hash: "a",
        public_id: ANA,
        name: "Film.mkv",
        files: 1,
        made_ms: 1,
        expires_ms: operator.now + 3_600_000,
      },
    ];
    operator.linksState = "known";
    operator.clients = [{ public_id: ANA, name: "Ana’s iPhone", kind: "browser", platform: "" }];
    render(Console, { operator });
    await fireEvent.click(screen.getByRole("button", { name: "Links" }));
    expect(operator.actions.loadLinks).toHaveBeenCalled();
    expect(screen.getByText("Film.mkv")).toBeTruthy();
    await fireEvent.click(screen.getByRole("button", { name: "End link to Film.mkv" }));
    expect(operator.actions.dropLink).toHaveBeenCalledWith("a", "Film.mkv");
    expect(await violations()).toEqual([]);
  });
});
