/**
 * Drives the device's page: takes the socket's events and the person's actions, performs the
 * effects of the state machines, and updates the store.
 */
import { startClock } from "./connection/clock";
import { Reloads } from "./connection/reload";
import { Socket, socketUrl } from "./connection/socket";
import { systemRandom } from "./identity/bytes";
import { type Instance, renewInstance } from "./identity/instance";
import { recall, remember } from "./identity/memory";
import { revealBook } from "./identity/reveals";
import { defaultName, platformOf, tidyName } from "./identity/names";
import { type Invitation, type Keys, fileIds } from "./identity/proof";
import { Debounced } from "./lib/debounced";
import { sentence } from "./lib/words";
import type { DeviceToRelay, Incoming, RelayToDevice } from "./protocol/wire";
import type { LinkFolder } from "./protocol/generated/LinkFolder";
import { fromDrop, fromPaste } from "./transfer/gather";
import { LinkRefused, copyText } from "./transfer/links";
import { type FileItem, collect } from "./catalogue/catalogue";
import type { Download } from "./downloads/downloads";
import { Feed } from "./catalogue/feed";
import { Fetching, type LinkLimits } from "./downloads/fetching";
import { Links, type OwnLink } from "./downloads/links";
import { type Left, keyOf } from "./catalogue/mirror";
import { Offering } from "./sharing/offering";
import { type Asked, Requests } from "./session/requests";
import { type Effect, Session } from "./session/session";
import { HubStore, type Notice, type Actions } from "./store.svelte";
import { Outgoing } from "./sharing/outgoing";
import { WakeLock } from "./sharing/wakelock";

type Heard = Incoming<RelayToDevice>;

const OFFERS = "lanyard.offers";
const DOWNLOADS = "lanyard.downloads";
/** The time for which a removed row stays, struck through. */
const FOLD_MS = 4_000;
const NOTICE_MS = 8_000;
/** A tab that is superseded twice within this time does not take its place back. */
const SUPERSEDED_MS = 60_000;

export class Driver implements Actions {
  readonly store = new HubStore(this);
  readonly #session: Session;
  readonly #socket: Socket<RelayToDevice>;
  readonly #feed: Feed;
  readonly #offering: Offering;
  readonly #fetching: Fetching;
  readonly #links: Links;
  readonly #outgoing = new Outgoing();
  readonly #requests = new Requests<Heard>(() => Date.now());
  readonly #wakeLock = new WakeLock();
  readonly #reloads = new Reloads(sessionStorage, () => location.reload());
  readonly #list = new Debounced(() => this.#showList(), 60);
  readonly #keep = new Debounced(() => this.#keepForReload(), 500);
  /** Rows that have just left the list. */
  #ghosts = new Map<string, { item: FileItem; until: number }>();
  /**
   * Files that left the list with their owner while this page downloads them. Their rows stay in
   * place.
   */
  #awaited = new Map<string, FileItem>();
  #bootId: string | null = null;
  #notices = 0;
  #renewedAt: number | null = null;
  #awayFor = new Set<string>();

  constructor(
    private readonly keys: Keys,
    instance: Instance,
    private readonly signal: AbortSignal,
    invitation: Invitation | null,
  ) {
    // The encrypted page is another origin. The invitation goes along in the fragment, which the
    // hub never sees.
    if (invitation) this.store.secureAddress = `/secure#i=${invitation.id}${invitation.secret}`;
    const agent = navigator.userAgent;
    const touch = navigator.maxTouchPoints;
    this.#session = new Session({
      keys,
      authority: location.host.toLowerCase(),
      platform: platformOf(agent, touch),
      instance: instance.id,
      remembered: recall(localStorage),
      suggestion: tidyName(defaultName(agent, touch)),
      random: systemRandom,
      now: () => Date.now(),
      resume: () => this.#feed.mirror.resume,
      invitation,
      reveals: revealBook(localStorage),
    });
    this.#socket = new Socket<RelayToDevice>(socketUrl("/ws/device"), {
      message: (message) => this.#hear(message),
      closed: (code) => this.#closed(code),
      state: () => this.#show(),
    });
    this.#feed = new Feed(
      {
        pull: (data) => this.#request({ opcode: "FEED_PULL", data }, { answered: () => undefined }),
        changed: () => this.#list.trigger(),
        left: (left) => this.#left(left),
        complete: () => this.#complete(),
      },
      () => Date.now(),
    );
    this.#offering = new Offering({
      me: keys.publicId,
      instance: () => this.#session.instance,
      fileId: fileIds(keys.fileKey),
      ready: () => this.#session.entered && this.#session.hubReady && !this.#feed.mirror.pulling,
      signer: () => this.#session.signer,
      ask: (message, asked) => this.#request(message, asked) !== null,
      say: (message) => this.#socket.send(message),
      changed: () => {
        this.#list.trigger();
        this.#keep.trigger();
      },
      now: () => Date.now(),
      notify: (notice) => this.#notify(notice),
      owes: (count) => this.#owes(count),
    });
    this.#links = new Links({
      now: () => Date.now(),
      random: systemRandom,
      me: keys.publicId,
      ask: (message, answered, overdue) =>
        this.#session.entered && this.#request(message, { answered, overdue }) !== null,
      changed: () => this.#showLinks(),
      storage: localStorage,
    });
    this.#fetching = new Fetching({
      now: () => Date.now(),
      ready: () => this.#session.entered,
      links: this.#links,
      changed: () => {
        this.store.downloads = this.#fetching.downloads.list;
        this.#keep.trigger();
      },
      notify: (notice) => this.#notify(notice),
      say: (text) => (this.store.announcement = text),
      showLink: (link) => (this.store.linkShown = link),
      play: (link) => (this.store.playing = link),
      origin: location.origin,
    });
    if (instance.reloaded) this.#restore();
  }

  start(): void {
    startClock(
      () => this.#tick(),
      () => this.#wake(),
      this.signal,
    );
    window.addEventListener("pagehide", () => this.#keep.flush(), { signal: this.signal });
    this.signal.addEventListener("abort", () => this.#socket.halt());
    this.store.me = this.keys.publicId;
    this.#perform(this.#session.start());
  }

  // Actions of the person.

  knock(name: string): void {
    this.#perform(this.#session.knock(tidyName(name)));
  }

  stopKnocking(): void {
    this.#perform(this.#session.stopKnocking());
  }

  tryNow(): void {
    const { place, instance } = this.#session;
    const elsewhere = place.at === "stopped" && place.why === "superseded";
    this.#perform(this.#session.tryAgain(elsewhere ? renewInstance() : instance));
  }

  rename(name: string): void {
    this.#request(
      { opcode: "UPDATE_NAME", data: { name: tidyName(name) } },
      this.#complains("The name was not changed"),
    );
  }

  shareFiles(files: Iterable<File>): void {
    void this.#offering.shareFiles(files);
  }

  shareDrop(transfer: DataTransfer): void {
    fromDrop(transfer, this.signal).then(
      (gathered) => this.#offering.share(gathered),
      () => this.#notify({ tone: "error", title: "The dropped files couldn’t be read" }),
    );
  }

  sharePaste(transfer: DataTransfer | null): void {
    const gathered = fromPaste(transfer, new Date());
    if (gathered.picked.length > 0) void this.#offering.share(gathered);
  }

  announceAgain(fileIds: string[]): void {
    this.#offering.announceAgain(fileIds);
  }

  stopSharing(fileIds: string[]): void {
    this.#offering.stop(fileIds);
  }

  download(items: FileItem[], title: string, subject: string, folder?: LinkFolder): void {
    this.#fetching.download(items, title, subject, folder);
  }

  cancel(downloadId: string): void {
    this.#fetching.cancel(downloadId);
  }

  clearHistory(): void {
    this.#fetching.downloads.forgetEnded();
    this.#fetching.next();
  }

  copyLink(items: FileItem[], title: string, folder?: LinkFolder, limits?: LinkLimits): void {
    void this.#fetching.copyLink(items, title, folder, limits);
  }

  loadLinks(): void {
    void this.#links.load();
  }

  copyAgain(link: OwnLink): void {
    if (link.url === null) return;
    const url = location.origin + link.url;
    if (copyText(url)) this.#notify({ tone: "ok", title: "Link copied" });
    else this.store.linkShown = { title: link.name, url };
  }

  dropLink(link: OwnLink): void {
    this.#links.drop(link.link_hash).catch((error: unknown) => {
      const text =
        error instanceof LinkRefused ? sentence(error.code, error.message) : sentence("TIMED_OUT");
      this.#notify({ tone: "error", title: `${link.name} can still be downloaded`, text });
    });
  }

  play(item: FileItem): void {
    void this.#fetching.play(item);
  }

  dismiss(noticeId: number): void {
    this.store.notices = this.store.notices.filter(({ id }) => id !== noticeId);
  }

  // Messages of the hub.

  #hear(message: Heard): void {
    if (message.opcode === "CHALLENGE") this.#relayIs(message.data.boot_id);
    const own = message.opcode === "REQUEST_FAILED" && message.ref !== undefined;
    if (!own) this.#perform(this.#session.hear(message));
    // The page of a pending device shows nothing of the hub, whatever arrives.
    const feeds = this.#session.entered && this.#feed.hear(message);
    this.#requests.settle(message);
    if (!feeds) this.#act(message);
    if (message.opcode === "FILES_ADDED" && message.data.public_id === this.keys.publicId)
      this.#offering.listed(message.data.files);
    if (message.opcode === "CLIENT_DISCONNECTED" || message.opcode === "CLIENT_RECONNECTED")
      this.#presence(message.data.public_id);
    this.#show();
  }

  /** Handles a restart of the relay: the bodies that the browser was reading have ended. */
  #relayIs(bootId: string): void {
    if (this.#bootId !== null && this.#bootId !== bootId) this.#fetching.cutOff();
    this.#bootId = bootId;
  }

  #act(message: Heard): void {
    switch (message.opcode) {
      case "UPLOAD_CHUNK_REQUEST":
        return this.#offering.request(message.data);
      case "UPLOAD_CANCELLED":
        this.#offering.uploads.cancel(message.data.ticket);
        // After two unanswered requests the relay counts this page as asleep. So a page without the
        // bytes answers as well.
        if (message.data.code === "TIMED_OUT") this.#socket.send({ opcode: "PING", data: {} });
        return;
      case "FILE_CHANGED":
        if (message.data.public_id === this.keys.publicId)
          this.#offering.broken(message.data.file_id, "FILE_CHANGED");
        return;
      case "TRANSFER_PROGRESS":
        if (message.data.link_hash !== undefined) return this.#fetching.progress(message.data);
        if (message.data.public_id === this.keys.publicId)
          this.#outgoing.progress(message.data, Date.now());
        return this.#showOutgoing();
      case "LINK_MADE":
      case "LINK_DROPPED":
        this.#links.hear(message);
        if (message.opcode === "LINK_DROPPED") this.#fetching.dropped(message.data.link_hash);
        return;
      default:
        return;
    }
  }

  #showLinks(): void {
    this.store.links = this.#links.list;
    this.store.linksState = this.#links.state;
  }

  #closed(code: number): void {
    this.#requests.drop();
    this.#feed.disconnected();
    this.#offering.disconnected();
    this.#outgoing.clear();
    this.#showOutgoing();
    this.#perform(this.#session.closed(code));
    this.#list.trigger();
  }

  #complete(): void {
    this.store.loaded = true;
    this.#offering.reconcile(this.#feed.mirror.files.values());
    this.#fetching.next();
  }

  #left(left: Left): void {
    this.#offering.left(left);
    // Many files may leave at once, so the list is not searched for each of them.
    const shown = new Map(this.store.files.map((item) => [item.key, item]));
    const arriving = this.#arriving();
    for (const file of left.files) {
      this.#outgoing.drop(file.file_id, !left.withdrawn);
      if (file.kind === "folder" || left.public_id === this.keys.publicId) continue;
      const item = shown.get(keyOf(file));
      if (left.withdrawn) {
        if (item && arriving.has(item.key)) this.#awaited.set(item.key, { ...item, listed: false });
        continue;
      }
      if (item && this.#ghosts.size < 50)
        this.#ghosts.set(item.key, {
          item: { ...item, gone: "removed", listed: false },
          until: Date.now() + FOLD_MS,
        });
    }
  }

  /** Returns the keys of the files that are being downloaded. */
  #arriving(): Set<string> {
    return new Set(this.store.running.flatMap(({ files }) => files.map(keyOf)));
  }

  /** Shows one notice per device when the owner of a running download leaves or comes back. */
  #presence(publicId: string): void {
    const arriving = this.store.running.filter(({ files }) =>
      files.some((file) => file.public_id === publicId),
    );
    const here = this.#feed.online.has(publicId);
    if (!here && arriving.length > 0) {
      this.#awayFor.add(publicId);
      this.#notify({
        tone: "wait",
        title: `${this.store.nameOf(publicId)} disconnected`,
        text: "The download continues when it’s back.",
      });
    } else if (here && this.#awayFor.delete(publicId) && arriving.length > 0) {
      const carried =
        arriving.length === 1
          ? "1 download is continuing."
          : `${arriving.length} downloads are continuing.`;
      this.#notify({ tone: "ok", title: `${this.store.nameOf(publicId)} is back. ${carried}` });
    }
  }

  #perform(effects: Effect[]): void {
    for (const effect of effects) this.#do(effect);
    this.#show();
  }

  #do(effect: Effect): void {
    switch (effect.do) {
      case "connect":
        return this.#socket.connect();
      case "halt":
        this.#requests.drop();
        this.#feed.disconnected();
        this.#offering.disconnected();
        return this.#socket.halt();
      case "settled":
        this.#reloads.settled();
        return this.#socket.settled();
      case "send":
        this.#socket.send(effect.message);
        return;
      case "sign":
        void effect.signed.then((message) => message && this.#socket.send(message));
        return;
      case "remember":
        return remember(localStorage, effect.what);
      case "outdated":
        return this.#reloads.outdated(effect.met);
      case "superseded":
        return this.#superseded();
      case "entered":
        // While the master is away nobody sends the first page. HUB_READY pulls it.
        if (this.#session.hubReady) this.#feed.expect();
        return;
      case "cleared":
        this.#feed.clear();
        this.#ghosts.clear();
        this.store.loaded = false;
        return this.#list.flush();
    }
  }

  /**
   * Continues under a new instance id after another tab took this one's place, at most once within
   * a minute.
   */
  #superseded(): void {
    const now = Date.now();
    const again = this.#renewedAt !== null && now - this.#renewedAt < SUPERSEDED_MS;
    if (again || document.visibilityState !== "visible") return this.#session.supersededForGood();
    this.#renewedAt = now;
    this.#perform(this.#session.goOn(renewInstance()));
  }

  #wake(): void {
    const { place } = this.#session;
    const waits = place.at === "stopped" && place.why === "superseded" && this.#renewedAt === null;
    if (waits && document.visibilityState === "visible") this.#superseded();
    else this.#socket.wake();
  }

  // Requests and timers.

  #request(message: DeviceToRelay, asked: Asked<Heard>): string | null {
    const ref = this.#requests.open(asked);
    if (this.#socket.send(message, ref)) return ref;
    this.#requests.forget(ref);
    return null;
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
    const now = Date.now();
    this.#socket.tick();
    const late = this.#session.tick();
    if (late.length > 0) this.#perform(late);
    this.#requests.tick();
    if (this.#session.entered) this.#feed.tick();
    this.#offering.tick();
    if (this.#outgoing.tick(now)) this.#showOutgoing();
    this.#fetching.next();
    for (const [key, { until }] of this.#ghosts)
      if (now >= until && this.#ghosts.delete(key)) this.#list.trigger();
    this.store.now = now;
  }

  // Updates of the store.

  #show(): void {
    const { store } = this;
    const session = this.#session;
    store.screen = session.place;
    store.link = this.#socket.state;
    store.hub = { name: session.hubName ?? undefined, public_key: session.hubKey ?? undefined };
    store.mode = session.mode;
    store.hubReady = session.hubReady;
    store.entered = session.entered;
    store.registered = session.signer !== null;
    store.busy = session.busy;
    store.name = session.name;
  }

  #showList(): void {
    const { mirror, online } = this.#feed;
    const items = collect(mirror.files.values(), this.#offering.shares.offers, this.keys.publicId);
    for (const [key, { item }] of this.#ghosts) {
      if (mirror.files.has(key)) this.#ghosts.delete(key);
      else items.push(item);
    }
    const arriving = this.#awaited.size > 0 ? this.#arriving() : new Set<string>();
    for (const [key, item] of this.#awaited) {
      if (mirror.files.has(key) || !arriving.has(key)) this.#awaited.delete(key);
      else items.push(item);
    }
    this.store.files = items;
    this.store.clients = [...mirror.clients.values()];
    this.store.online = new Set(online);
    const own = mirror.clients.get(this.keys.publicId);
    if (own) this.store.name = own.name;
  }

  #showOutgoing(): void {
    this.store.outgoing = this.#outgoing.all;
    this.store.finished = new Map(this.#outgoing.finished);
  }

  #owes(count: number): void {
    this.store.owes = count;
    this.#wakeLock.set(count > 0);
  }

  #notify(notice: Omit<Notice, "id">): void {
    const id = (this.#notices += 1);
    this.store.notices = [...this.store.notices.slice(-3), { ...notice, id }];
    if (notice.tone === "ok") setTimeout(() => this.dismiss(id), NOTICE_MS);
  }

  // State kept for a reload.

  #keepForReload(): void {
    store(OFFERS, this.#offering.shares.lasting);
    store(DOWNLOADS, this.#fetching.downloads.lasting);
  }

  #restore(): void {
    this.#offering.shares.restore(load(OFFERS));
    this.#fetching.downloads.restore(load<Download>(DOWNLOADS));
    this.store.downloads = this.#fetching.downloads.list;
  }
}

function store(name: string, list: unknown[]): void {
  try {
    if (list.length === 0) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, JSON.stringify(list));
  } catch {
    // The storage is full. After a reload the rows come from the hub's list alone.
  }
}

function load<Kept>(name: string): Kept[] {
  try {
    const list: unknown = JSON.parse(sessionStorage.getItem(name) ?? "[]");
    return Array.isArray(list) ? (list as Kept[]) : [];
  } catch {
    return [];
  }
}
