/** Holds the console's state. The only reactive object of the console. */
import { getContext, setContext } from "svelte";
import type { LinkState } from "../connection/socket";
import { type FileItem, type Item, PLAIN_VIEW, browse } from "../catalogue/catalogue";
import type { Notice } from "../store.svelte";
import type {
  Admission,
  Client,
  HubInfo,
  JoinRequestInfo,
  Problem,
  RefusedClient,
  LinkListed,
} from "../protocol/wire";
import type { Kept } from "./record";
import type { Usage } from "./usage";
import { inFront } from "./waiting";
import { NOTHING_TYPED, type Typing } from "./typing";

export type PageState = "opening" | "open" | "denied" | "version";

export interface OperatorActions {
  type(text: string): void;
  letIn(): void;
  /** Puts another join request on the card. */
  seeTo(publicId: string): void;
  turnAway(publicId: string): void;
  forget(publicId: string): void;
  rename(publicId: string, name: string): void;
  copy(text: string): void;
  /** Sets which devices are let in from now on. */
  setDoor(admission: Admission): void;
  /** Allows more join requests than usual, for ten minutes. */
  allowMore(): void;
  /** Creates an invitation for one device. `hideInvitation` takes it off the screen. */
  invite(): void;
  hideInvitation(): void;
  /** Reads the record of decisions, the latest last. */
  record(): Promise<Kept>;
  usage(): Promise<Usage>;
  /** Loads the links of all devices. */
  loadLinks(): void;
  dropLink(linkHash: string, name: string): void;
  tryNow(): void;
  dismiss(noticeId: number): void;
}

export class OperatorStore {
  page = $state<PageState>("opening");
  link = $state.raw<LinkState>({ at: "idle" });
  hub = $state.raw<Partial<HubInfo>>({});
  me = $state("");
  urls = $state.raw<string[]>([]);
  relayReady = $state(true);
  tapToApprove = $state(false);
  admission = $state<Admission>("ask");
  /** The length of stay for the next device, or null for no limit. */
  stay = $state<number | null>(null);
  /** The invitation on the screen: the text after `i=`, and when it expires. */
  invitation = $state.raw<{ words: string; until: number } | null>(null);
  loaded = $state(false);
  joinRequests = $state.raw<JoinRequestInfo[]>([]);
  /**
   * The number of devices whose join requests are held back, and until when more than usual are
   * allowed.
   */
  alsoWaiting = $state(0);
  moreUntil = $state<number | null>(null);
  /** The device whose join request the host put on the card, or null for the oldest one. */
  chosen = $state<string | null>(null);
  typing = $state.raw<Typing>(NOTHING_TYPED);
  /** True while an answer of the hub is pending. */
  asking = $state(false);
  refused = $state.raw<RefusedClient[]>([]);
  clients = $state.raw<Client[]>([]);
  online = $state.raw<ReadonlySet<string>>(new Set());
  files = $state.raw<FileItem[]>([]);
  /** The links of all devices, the newest first, once they were asked for. */
  links = $state.raw<LinkListed[]>([]);
  linksState = $state.raw<"unknown" | "loading" | "known" | "failed">("unknown");
  /** The hub's problems, the oldest first. */
  problems = $state.raw<Problem[]>([]);
  notices = $state.raw<Notice[]>([]);
  announcement = $state("");
  now = $state(Date.now());

  readonly joinRequest = $derived(inFront(this.joinRequests, this.chosen));
  readonly rows = $derived<Item[]>(browse(this.files, PLAIN_VIEW));
  readonly fileCounts = $derived.by(() => {
    const byOwner = new Map<string, number>();
    for (const { owner } of this.files) byOwner.set(owner, (byOwner.get(owner) ?? 0) + 1);
    return byOwner;
  });
  readonly names = $derived(new Map(this.clients.map((client) => [client.public_id, client.name])));
  readonly here = $derived(
    this.clients
      .filter(
        ({ public_id }) =>
          public_id === this.me || this.online.has(public_id) || this.fileCounts.has(public_id),
      )
      .sort(
        (a, b) =>
          Number(b.public_id === this.me) - Number(a.public_id === this.me) ||
          a.name.localeCompare(b.name),
      ),
  );
  readonly asleep = $derived(this.clients.filter((client) => !this.here.includes(client)));
  readonly usable = $derived(this.page === "open" && this.link.at === "open");

  constructor(readonly actions: OperatorActions) {}
}

const KEY = Symbol("operator");

export const provideOperator = (operator: OperatorStore): OperatorStore =>
  setContext(KEY, operator);
export const useOperator = (): OperatorStore => getContext<OperatorStore>(KEY);
