/**
 * Drives the operator console: takes the master's messages and the host's actions, and updates the
 * store.
 */
import { CLOSE_CODES } from "../protocol/generated/close_codes";
import { startClock } from "../connection/clock";
import { Reloads } from "../connection/reload";
import { Socket, socketUrl } from "../connection/socket";
import { collect } from "../catalogue/catalogue";
import { Feed } from "../catalogue/feed";
import { type Asked, Requests } from "../session/requests";
import type { Notice } from "../store.svelte";
import { tidyName } from "../identity/names";
import { Debounced } from "../lib/debounced";
import { sentence } from "../lib/words";
import type {
  Admission,
  ConsoleToMaster,
  Incoming,
  LinkListed,
  MasterToConsole,
} from "../protocol/wire";
import { copyText } from "../transfer/links";
import { type Kept, readRecord } from "./record";
import { forgetToken, takeSecret, tokenFor } from "./session";
import { OperatorStore, type OperatorActions } from "./store.svelte";
import { facing, refused, typed } from "./typing";
import { readUsage, type Usage } from "./usage";

type Heard = Incoming<MasterToConsole>;

const NOTICE_MS = 8_000;
/** The time for which an invitation of the console can be used. */
const INVITATION_MS = 3_600_000;

export class OperatorDriver implements OperatorActions {
  readonly store = new OperatorStore(this);
  readonly #socket: Socket<MasterToConsole>;
  readonly #requests = new Requests<Heard>(() => Date.now());
  readonly #feed: Feed;
  readonly #list = new Debounced(() => this.#showList(), 60);
  readonly #reloads = new Reloads(sessionStorage, () => location.reload());
  #token: string | null = null;
  #lastDevice: string | null = null;
  #notices = 0;

  constructor(private readonly signal: AbortSignal) {
    this.#socket = new Socket<MasterToConsole>(socketUrl("/ws/console"), {
      message: (message) => this.#hear(message),
      closed: (code) => this.#closed(code),
      state: (state) => {
        this.store.link = state;
        if (state.at === "open" && this.#token !== null)
          this.#socket.send({ opcode: "CONSOLE_REGISTER", data: { token: this.#token } });
      },
    });
    this.#feed = new Feed(
      {
        pull: (data) => this.#request({ opcode: "FEED_PULL", data }, { answered: () => undefined }),
        changed: () => this.#list.trigger(),
        left: () => undefined,
        complete: () => (this.store.loaded = true),
      },
      () => Date.now(),
    );
  }

  async start(): Promise<void> {
    startClock(
      () => this.#tick(),
      () => this.#socket.wake(),
      this.signal,
    );
    this.signal.addEventListener("abort", () => this.#socket.halt());
    try {
      this.#token = await tokenFor(takeSecret(location, history), sessionStorage, this.signal);
    } catch {
      this.#token = null;
    }
    if (this.#token === null) this.#deny();
    else this.#socket.connect();
  }

  type(text: string): void {
    this.store.typing = typed(this.store.typing, text);
  }

  letIn(): void {
    const { joinRequest: knock, typing, tapToApprove, asking } = this.store;
    if (!knock || knock.left || asking) return;
    if (typing.digits.length !== 6 && !(tapToApprove && knock.code !== undefined)) return;
    const { public_id, request_id, name } = knock;
    const code = typing.digits.length === 6 ? { code: typing.digits } : {};
    this.store.asking = true;
    this.#ask(
      {
        opcode: "APPROVE_CLIENT",
        data: {
          public_id,
          request_id,
          ...code,
          ...(this.store.stay === null ? {} : { for_ms: this.store.stay }),
        },
      },
      {
        answered: (answer) => {
          this.store.asking = false;
          if (answer.opcode === "REQUEST_FAILED") this.#wrong(request_id, answer.data.code);
          else {
            this.store.stay = null;
            this.#notify({ tone: "ok", title: `${name} is in` });
          }
        },
        overdue: () => {
          this.store.asking = false;
          this.#wrong(request_id, "TIMED_OUT");
        },
      },
    );
  }

  seeTo(publicId: string): void {
    this.store.chosen = publicId;
    this.#face();
  }

  turnAway(publicId: string): void {
    this.#ask(
      { opcode: "DIS_APPROVE_CLIENT", data: { public_id: publicId } },
      this.#complains("The device was not turned away"),
    );
  }

  forget(publicId: string): void {
    this.#ask(
      { opcode: "FORGET_CLIENT", data: { public_id: publicId } },
      this.#complains("The refusal was not lifted"),
    );
  }

  rename(publicId: string, name: string): void {
    this.#ask(
      { opcode: "UPDATE_NAME", data: { public_id: publicId, name: tidyName(name) } },
      this.#complains("The name was not changed"),
    );
  }

  copy(text: string): void {
    const copied = copyText(text);
    this.#notify(
      copied
        ? { tone: "ok", title: "Link copied" }
        : { tone: "error", title: "This browser couldn’t copy the link", text },
    );
  }

  setDoor(admission: Admission): void {
    this.#ask(
      { opcode: "SET_DOOR", data: { admission } },
      this.#complains("The door stayed as it was"),
    );
  }

  allowMore(): void {
    this.#ask({ opcode: "ALLOW_MORE", data: {} }, this.#complains("That didn’t work"));
  }

  invite(): void {
    const failed = this.#complains("No invitation was made");
    this.#ask(
      { opcode: "INVITE", data: { valid_ms: INVITATION_MS } },
      {
        ...failed,
        answered: (answer) => {
          if (answer.opcode !== "INVITATION") return failed.answered(answer);
          const { id, secret, expires_ms } = answer.data;
          this.store.invitation = { words: `${id}${secret}`, until: expires_ms };
          this.store.announcement = "The QR code now lets one device in without a code";
        },
      },
    );
  }

  hideInvitation(): void {
    this.store.invitation = null;
  }

  record(): Promise<Kept> {
    return readRecord(this.#token, this.signal);
  }

  usage(): Promise<Usage> {
    return readUsage(this.#token, this.signal);
  }

  loadLinks(): void {
    this.store.linksState = "loading";
    this.#pullLinks([], undefined);
  }

  dropLink(linkHash: string, name: string): void {
    const failed = this.#complains(`The link to ${name} still works`);
    this.#ask({ opcode: "LINK_DROP", data: { link_hash: linkHash } }, failed);
  }

  #pullLinks(before: LinkListed[], cursor: string | undefined): void {
    const failed = () => void (this.store.linksState = "failed");
    this.#ask(
      { opcode: "LINKS_PULL", data: cursor === undefined ? {} : { cursor } },
      {
        answered: (answer) => {
          if (answer.opcode !== "LINKS_PAGE") return failed();
          const links = [...before, ...answer.data.links];
          if (!answer.data.last && answer.data.cursor !== undefined)
            return this.#pullLinks(links, answer.data.cursor);
          this.store.links = links;
          this.store.linksState = "known";
        },
        overdue: failed,
      },
    );
  }

  tryNow(): void {
    this.#socket.connect();
  }

  dismiss(noticeId: number): void {
    this.store.notices = this.store.notices.filter(({ id }) => id !== noticeId);
  }

  #hear(message: Heard): void {
    const feeds = this.#feed.hear(message);
    this.#requests.settle(message);
    if (feeds) return;
    const { store } = this;
    switch (message.opcode) {
      case "CONSOLE_REGISTER_ACK":
        this.#reloads.settled();
        this.#socket.settled();
        store.page = "open";
        store.me = message.data.public_id;
        store.hub = message.data.hub;
        store.urls = message.data.urls;
        store.relayReady = message.data.relay_ready;
        store.tapToApprove = message.data.tap_to_approve;
        return this.#feed.pull();
      case "KNOCKS":
        store.alsoWaiting = message.data.waiting;
        store.moreUntil =
          message.data.more_for_ms === undefined ? null : Date.now() + message.data.more_for_ms;
        return this.#knocking(message.data.knocks);
      case "REFUSED":
        store.refused = message.data.clients;
        return;
      case "DOOR":
        store.admission = message.data.admission;
        return;
      case "PROBLEMS":
        return this.#wrongs(message.data.problems);
      case "LINK_MADE": {
        const { link } = message.data;
        store.links = [
          link,
          ...store.links.filter(({ link_hash }) => link_hash !== link.link_hash),
        ].sort((a, b) => b.made_ms - a.made_ms);
        return;
      }
      case "LINK_DROPPED":
        store.links = store.links.filter(({ link_hash }) => link_hash !== message.data.link_hash);
        return;
      case "RELAY_STATE":
        store.relayReady = message.data.ready;
        return;
      default:
        return;
    }
  }

  #knocking(knocks: OperatorStore["joinRequests"]): void {
    const { store } = this;
    const before = new Set(store.joinRequests.map(({ public_id }) => public_id));
    const goneBefore = new Set(
      store.joinRequests.filter(({ left }) => left).map(({ request_id }) => request_id),
    );
    // Oldest first. The join request on the card is never replaced by another one.
    store.joinRequests = [...knocks].sort((a, b) => a.asked_ms - b.asked_ms);
    this.#face();
    const fresh = store.joinRequests.find(({ public_id }) => !before.has(public_id));
    const gone = store.joinRequests.find(
      ({ request_id, left }) => left && !goneBefore.has(request_id),
    );
    if (gone) store.announcement = `${gone.name} left before you answered`;
    if (fresh) store.announcement = `${fresh.name} is knocking`;
  }

  #wrongs(problems: OperatorStore["problems"]): void {
    const known = new Set(this.store.problems.map(({ code }) => code));
    this.store.problems = problems;
    const fresh = problems.find(({ code }) => !known.has(code));
    if (fresh) this.store.announcement = `${fresh.what} ${fresh.advice}`;
  }

  #face(): void {
    const { store } = this;
    const { joinRequest: knock } = store;
    // The join request on the card stays there until it is decided, however the list grows.
    store.chosen = knock?.public_id ?? null;
    store.typing = facing(store.typing, knock, this.#lastDevice);
    // The chosen length of stay applies to one device only.
    if (store.chosen !== this.#lastDevice) store.stay = null;
    this.#lastDevice = store.chosen;
  }

  #wrong(requestId: string, code: string): void {
    const { store } = this;
    if (store.typing.request !== requestId) return;
    store.typing = refused(store.typing, code);
  }

  #closed(code: number): void {
    this.#requests.drop();
    this.#feed.disconnected();
    this.#list.trigger();
    if (code === CLOSE_CODES.UNAUTHENTICATED) this.#deny();
    if (code === CLOSE_CODES.BAD_MESSAGE) {
      this.store.page = "version";
      this.#socket.halt();
      this.#reloads.outdated("another");
    }
  }

  #deny(): void {
    this.#token = null;
    forgetToken(sessionStorage);
    this.#socket.halt();
    this.store.page = "denied";
  }

  #request(message: ConsoleToMaster, asked: Asked<Heard>): string | null {
    const ref = this.#requests.open(asked);
    if (this.#socket.send(message, ref)) return ref;
    this.#requests.forget(ref);
    return null;
  }

  /** Sends what a person asked for. Fails at once without a connection. */
  #ask(message: ConsoleToMaster, asked: Asked<Heard>): void {
    if (this.#request(message, asked) === null) asked.overdue?.();
  }

  #complains(title: string): Asked<Heard> {
    return {
      answered: (answer) => {
        if (answer.opcode === "REQUEST_FAILED")
          this.#notify({
            tone: "error",
            title,
            text: sentence(answer.data.code, answer.data.message),
          });
      },
      overdue: () => this.#notify({ tone: "error", title, text: sentence("TIMED_OUT") }),
    };
  }

  #tick(): void {
    this.#socket.tick();
    this.#requests.tick();
    if (this.#socket.state.at === "open") this.#feed.tick();
    this.store.now = Date.now();
    if (this.store.invitation !== null && this.store.invitation.until <= this.store.now)
      this.hideInvitation();
  }

  #showList(): void {
    const { mirror, online } = this.#feed;
    this.store.files = collect(mirror.files.values(), new Map(), this.store.me);
    this.store.clients = [...mirror.clients.values()];
    this.store.online = new Set(online);
  }

  #notify(notice: Omit<Notice, "id">): void {
    const id = (this.#notices += 1);
    this.store.notices = [...this.store.notices.slice(-3), { ...notice, id }];
    if (notice.tone === "ok") setTimeout(() => this.dismiss(id), NOTICE_MS);
  }
}
