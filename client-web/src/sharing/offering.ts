/**
 * Shares files: gathers them, announces them in batches, follows the hub's answers, and serves
 * their bytes.
 */
import type { Version } from "../identity/proof";
import type { Signer } from "../identity/signer";
import { yieldToBrowser } from "../lib/debounced";
import { sentence } from "../lib/words";
import { MAX_FILES_A_MESSAGE } from "../protocol/limits";
import type {
  DataOf,
  DeviceToRelay,
  FailureCode,
  Incoming,
  NewFile,
  RelayToDevice,
} from "../protocol/wire";
import { type Gathered, fromPicker } from "../transfer/gather";
import { nameOf, numbered, travelPath } from "../transfer/paths";
import { Uploads, whyUnreadable } from "../transfer/upload";
import { plural } from "../lib/format";
import type { Left, Listed } from "../catalogue/mirror";
import type { Asked } from "../session/requests";
import { type Offer, Shares, batches } from "./shares";
import type { Notice } from "../store.svelte";

type Answer = Incoming<RelayToDevice>;

export interface OfferingTools {
  me: string;
  instance(): string;
  fileId(version: Version): string;
  /** Returns true if the device is approved and the hub can be reached. */
  ready(): boolean;
  signer(): Signer | null;
  ask(message: DeviceToRelay, asked: Asked<Answer>): boolean;
  say(message: DeviceToRelay): void;
  now(): number;
  changed(): void;
  notify(notice: Omit<Notice, "id">): void;
  owes(count: number): void;
}

/** The failures after which the same addition may succeed later (PROTOCOL.md 9.1). */
const DELAYED: readonly FailureCode[] = ["SERVER_NOT_READY", "BUSY", "TIMED_OUT"];
/** The default wait before the next try, and the shortest one, whatever the hub says. */
const REST_MS = 1_000;
const MIN_REST_MS = 200;

/** The number of files read before the page yields to the browser. */
const AT_ONCE = 32;

export class Offering {
  readonly shares = new Shares();
  readonly uploads: Uploads;
  /** The time at which delayed additions are repeated. */
  #due: number | null = null;

  constructor(private readonly tools: OfferingTools) {
    this.uploads = new Uploads({
      held: (fileId) => this.#held(fileId),
      isGone: (fileId) => this.#isGone(fileId),
      signer: tools.signer,
      unavailable: (data) => tools.say({ opcode: "CHUNK_UNAVAILABLE", data }),
      broken: (fileId, code) => this.broken(fileId, code),
      owes: tools.owes,
      put: (url, init) => fetch(url, init),
    });
  }

  /**
   * Announces picked, dropped or pasted files. Works in slices, since reading a file's size makes
   * the browser read the disk.
   */
  async share(gathered: Gathered): Promise<void> {
    await this.#settleRivals(gathered);
    const { picked, ...others } = gathered;
    const { fresh, skipped, ...counts } = this.shares.add(
      { picked: [], ...others },
      this.tools.fileId,
    );
    let { duplicates, reclaimed } = counts;
    let shared = fresh.length;
    for (let at = 0; at < picked.length; at += AT_ONCE) {
      const added = this.shares.add(
        { picked: picked.slice(at, at + AT_ONCE), emptyFolders: [], unreadable: [] },
        this.tools.fileId,
      );
      fresh.push(...added.fresh);
      skipped.push(...added.skipped);
      duplicates += added.duplicates;
      reclaimed += added.reclaimed;
      shared += added.fresh.length;
      if (fresh.length >= MAX_FILES_A_MESSAGE) this.#announce(fresh.splice(0, MAX_FILES_A_MESSAGE));
      if (at + AT_ONCE < picked.length) await yieldToBrowser();
    }
    this.#announce(fresh);
    this.tools.changed();
    if (skipped.length > 0) {
      const names =
        skipped.slice(0, 3).map(nameOf).join(", ") + (skipped.length > 3 ? " and others" : "");
      this.tools.notify({
        tone: "error",
        title: `${plural(skipped.length, "file")} couldn’t be read`,
        text: names,
      });
    }
    if (shared === 0 && duplicates > 0) {
      this.tools.notify({
        tone: "ok",
        title: duplicates === 1 ? "This file is already shared" : "These files are already shared",
      });
    }
    if (reclaimed > 0)
      this.tools.notify({
        tone: "ok",
        title: `${plural(reclaimed, "file")} shared again`,
        text: "The same links keep working.",
      });
  }

  shareFiles(files: Iterable<File>): Promise<void> {
    return this.share(fromPicker(files));
  }

  announceAgain(fileIds: string[]): void {
    this.#announce(
      fileIds
        .flatMap((id) => this.shares.offers.get(id) ?? [])
        .filter((offer) => this.shares.handle(offer.file_id)),
    );
    this.tools.changed();
  }

  stop(fileIds: string[]): void {
    const announced = fileIds.filter((id) => {
      const state = this.shares.offers.get(id)?.state;
      if (state !== "failed") return true;
      this.shares.drop(id);
      return false;
    });
    for (const id of announced) this.shares.set(id, { state: "leaving", asked: true });
    this.#remove(announced);
    this.tools.changed();
  }

  /** Takes a file off the list that has changed on the owner's disk. */
  broken(fileId: string, code: "FILE_CHANGED" | "FILE_GONE"): void {
    const offer = this.shares.offers.get(fileId);
    if (!offer) return;
    this.shares.drop(fileId);
    this.#remove([fileId]);
    this.tools.changed();
    const name = nameOf(offer.path);
    const title =
      code === "FILE_CHANGED"
        ? `${name} changed since it was shared`
        : `${name} is no longer where it was`;
    this.tools.notify({
      tone: "error",
      title,
      text: "It was taken off the list. Pick it again to share it as it is.",
    });
  }

  /** Reconciles the whole list with the offers of this tab. */
  reconcile(listed: Iterable<Listed>): void {
    const { me, instance } = this.tools;
    const mine = [...listed].filter(({ public_id }) => public_id === me);
    const { announce, withdraw, remove } = this.shares.reconcile(mine, instance());
    // Removals go first, because they make room for additions.
    this.#remove(withdraw, true);
    this.#remove(remove);
    this.#announce(announce);
    this.tools.changed();
  }

  /** Handles files of this device that left the list, whoever removed them. */
  left({ public_id, files, withdrawn }: Left): void {
    if (public_id !== this.tools.me) return;
    const again: Offer[] = [];
    for (const { file_id, kind } of files) {
      const offer = this.shares.offers.get(file_id);
      if (!offer) continue;
      const readable = this.shares.handle(file_id) !== undefined || kind === "folder";
      if (!withdrawn || offer.state === "leaving") this.shares.drop(file_id);
      else if (readable && offer.state === "shared") again.push(offer);
    }
    this.#announce(again);
  }

  request(data: DataOf<RelayToDevice, "UPLOAD_CHUNK_REQUEST">): void {
    this.uploads.request(data);
  }

  /** Marks offers of this tab as shared once the list names them. */
  listed(files: { file_id: string; instance: string }[]): void {
    for (const { file_id, instance } of files) {
      const offer = this.shares.offers.get(file_id);
      if (!offer || offer.state === "leaving" || instance !== this.tools.instance()) continue;
      if (this.shares.handle(file_id) || offer.kind === "folder")
        this.shares.set(file_id, { state: "shared", problem: undefined });
    }
  }

  /** Handles the tick of each second: repeats the additions that the hub had delayed. */
  tick(): void {
    if (this.#due === null || this.tools.now() < this.#due || !this.tools.ready()) return;
    this.#due = null;
    const delayed = [...this.shares.offers.values()].filter(
      ({ state, asked }) => state === "syncing" && !asked,
    );
    this.#announce(delayed);
    this.tools.changed();
  }

  disconnected(): void {
    this.#due = null;
    this.uploads.cancelAll();
    this.shares.disconnected();
  }

  #held(fileId: string) {
    const offer = this.shares.offers.get(fileId);
    const file = this.shares.handle(fileId);
    return offer && file && offer.state !== "leaving"
      ? { file, size: offer.size, modified_ms: offer.modified_ms }
      : undefined;
  }

  /**
   * Returns true if nobody should wait for the file's bytes. Until the list is whole, it may name
   * files that a reload forgot.
   */
  #isGone(fileId: string): boolean {
    const state = this.shares.offers.get(fileId)?.state;
    return state === undefined ? this.tools.ready() : state === "leaving";
  }

  #announce(offers: NewFile[]): void {
    for (const { file_id } of offers)
      this.shares.set(file_id, { state: "syncing", problem: undefined, asked: false });
    // Without the hub the offers stay pending until the hub is back.
    if (!this.tools.ready()) return;
    for (const files of batches(offers)) {
      for (const { file_id } of files) this.shares.set(file_id, { asked: true });
      this.tools.ask(
        { opcode: "ADD_FILES", data: { files } },
        {
          answered: (answer) => this.#answered(files, answer),
          overdue: () => this.#overdue(files),
        },
      );
    }
  }

  #answered(files: NewFile[], answer: Answer): void {
    if (answer.opcode !== "REQUEST_FAILED") {
      this.listed(files.map(({ file_id }) => ({ file_id, instance: this.tools.instance() })));
      this.tools.changed();
      return;
    }
    const { code, message, file_id: culprit, retry_after_ms } = answer.data;
    const waiting = files.filter(
      ({ file_id }) => this.shares.offers.get(file_id)?.state === "syncing",
    );
    const at = waiting.findIndex(({ file_id }) => file_id === culprit);
    if (DELAYED.includes(code)) {
      for (const { file_id } of waiting) this.shares.set(file_id, { asked: false });
      this.#due = this.tools.now() + Math.max(MIN_REST_MS, retry_after_ms ?? REST_MS);
    } else if (at >= 0) {
      // After the first file beyond the quota no other fits. Asking for each would take a message
      // per file.
      const bad = code === "QUOTA" ? waiting.slice(at) : waiting.slice(at, at + 1);
      for (const { file_id } of bad) this.#fail(file_id, code, message);
      this.#announce(waiting.filter((file) => !bad.includes(file)));
    } else {
      for (const { file_id } of waiting) this.#fail(file_id, code, message);
    }
    this.tools.changed();
  }

  #fail(fileId: string, code: FailureCode, message: string): void {
    this.shares.set(fileId, { state: "failed", problem: sentence(code, message), asked: false });
  }

  #overdue(files: NewFile[]): void {
    if (!this.tools.ready()) return;
    for (const { file_id } of files) {
      if (this.shares.offers.get(file_id)?.state === "syncing")
        this.shares.set(file_id, { state: "failed", problem: "Couldn’t be added" });
    }
    this.tools.changed();
  }

  #remove(fileIds: string[], keep = false): void {
    for (let at = 0; at < fileIds.length; at += MAX_FILES_A_MESSAGE) {
      const file_ids = fileIds.slice(at, at + MAX_FILES_A_MESSAGE);
      const sent = this.tools.ask(
        { opcode: "REMOVE_FILE", data: keep ? { file_ids, keep } : { file_ids } },
        { answered: (answer) => this.#removed(file_ids, keep, answer) },
      );
      if (!sent) for (const id of file_ids) this.shares.set(id, { asked: false });
    }
  }

  /** An ACK means that nothing changed: the files were not listed. A change comes with the feed. */
  #removed(fileIds: string[], keep: boolean, answer: Answer): void {
    if (keep) return;
    for (const id of fileIds) {
      if (answer.opcode === "REQUEST_FAILED") this.shares.set(id, { asked: false });
      else this.shares.drop(id);
    }
    this.tools.changed();
  }

  /** Replaces an older version of a file, and numbers another file of the same name. */
  async #settleRivals(gathered: Gathered): Promise<void> {
    for (const picked of gathered.picked) {
      for (let count = 2; count < 1_000; count += 1) {
        const path = travelPath(picked.path);
        const rival = path === null ? undefined : this.shares.rival(path, picked.file);
        if (!rival || path === null) break;
        const old = this.shares.handle(rival.file_id);
        if (!old || (await whyUnreadable(old)) !== null) {
          this.shares.drop(rival.file_id);
          this.#remove([rival.file_id]);
          break;
        }
        picked.path = numbered(
          count === 2 ? path : picked.path.replace(/ \(\d+\)(?=(\.[^./]*)?$)/, ""),
          count,
        );
      }
    }
  }
}
