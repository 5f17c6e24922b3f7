/** Keeps the transfers from this device to others, as the relay reports them to the owner. Pure. */
import type { TransferProgress } from "../protocol/wire";

export interface OutgoingTransfer {
  asker: string;
  file_id: string;
  done: number;
  total: number;
  rate: number;
  state: TransferProgress["state"];
  heardMs: number;
}

const QUIET_MS = 20_000;

export class Outgoing {
  /** Transfers by file, then by the device that downloads. */
  #open = new Map<string, Map<string, OutgoingTransfer>>();
  /** The number of complete downloads of each file. */
  readonly finished = new Map<string, number>();

  progress(progress: TransferProgress, now: number): void {
    const { asker, file_id, done, total, rate, state } = progress;
    const askers = this.#open.get(file_id) ?? new Map<string, OutgoingTransfer>();
    if (state === "done" || state === "failed" || state === "cancelled") {
      askers.delete(asker);
      if (state === "done") this.finished.set(file_id, (this.finished.get(file_id) ?? 0) + 1);
    } else {
      askers.set(asker, { asker, file_id, done, total, rate, state, heardMs: now });
    }
    if (askers.size > 0) this.#open.set(file_id, askers);
    else this.#open.delete(file_id);
  }

  /** Forgets transfers without a recent report. Returns true if there were any. */
  tick(now: number): boolean {
    let changed = false;
    for (const [fileId, askers] of this.#open) {
      for (const [asker, transfer] of askers) {
        if (transfer.state === "running" && now - transfer.heardMs > QUIET_MS)
          changed = askers.delete(asker) || changed;
      }
      if (askers.size === 0) this.#open.delete(fileId);
    }
    return changed;
  }

  /** Forgets a file that left the list. `forGood`: the file does not come back under this id. */
  drop(fileId: string, forGood: boolean): void {
    this.#open.delete(fileId);
    if (forGood) this.finished.delete(fileId);
  }

  clear(): void {
    this.#open.clear();
  }

  get all(): ReadonlyMap<string, OutgoingTransfer[]> {
    return new Map([...this.#open].map(([fileId, askers]) => [fileId, [...askers.values()]]));
  }
}
