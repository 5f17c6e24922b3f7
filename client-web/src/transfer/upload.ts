/**
 * Uploads runs of groups: each request becomes the body of one PUT.
 *
 * Bytes never enter JavaScript. The body is a slice of the file, and the browser reads it while
 * sending. At most three uploads run; the rest wait here, where the relay can still cancel them.
 */
import type { Signer } from "../identity/signer";
import { MAX_UPLOADS, groupLog } from "../protocol/limits";
import type { DataOf, DeviceToRelay, GroupSpan, RelayToDevice } from "../protocol/wire";

type Request = DataOf<RelayToDevice, "UPLOAD_CHUNK_REQUEST">;
type Unavailable = DataOf<DeviceToRelay, "CHUNK_UNAVAILABLE">;

export interface Held {
  file: File;
  size: number;
  modified_ms: number;
}

export interface UploadTools {
  held(fileId: string): Held | undefined;
  /** Returns true if the file is not shared any more and does not come back under this id. */
  isGone(fileId: string): boolean;
  signer(): Signer | null;
  unavailable(answer: Unavailable): void;
  /** Called when a file can no longer be read as listed. */
  broken(fileId: string, code: "FILE_CHANGED" | "FILE_GONE"): void;
  /** Called with the number of uploads open or waiting. */
  owes(count: number): void;
  put(url: string, init: RequestInit): Promise<Response>;
}

class Refusal extends Error {
  constructor(
    readonly code: "FILE_CHANGED" | "FILE_GONE" | "BUSY",
    readonly fileId: string,
  ) {
    super(code);
  }
}

export class Uploads {
  #waiting: Request[] = [];
  #open = new Map<string, AbortController>();

  constructor(private readonly tools: UploadTools) {}

  request(request: Request): void {
    if (request.what === "hashes") {
      this.tools.unavailable({ ticket: request.ticket, code: "NO_HASHES" });
      return;
    }
    // A repeated request is the same upload.
    if (
      this.#open.has(request.ticket) ||
      this.#waiting.some(({ ticket }) => ticket === request.ticket)
    )
      return;
    this.#waiting.push(request);
    this.#next();
  }

  cancel(ticket: string): void {
    this.#waiting = this.#waiting.filter((request) => request.ticket !== ticket);
    this.#open.get(ticket)?.abort();
    this.#report();
  }

  /** Cancels all uploads at the end of the session, with which their tickets end. */
  cancelAll(): void {
    this.#waiting = [];
    for (const controller of this.#open.values()) controller.abort();
    this.#report();
  }

  #next(): void {
    while (this.#open.size < MAX_UPLOADS) {
      const request = this.#waiting.shift();
      if (!request) break;
      void this.#run(request);
    }
    this.#report();
  }

  async #run(request: Request): Promise<void> {
    const controller = new AbortController();
    this.#open.set(request.ticket, controller);
    try {
      const body = bodyOf(request, this.tools.held);
      const target = `/chunks/${request.ticket}`;
      await this.tools.put(target, {
        method: "PUT",
        body,
        headers: this.tools.signer()?.headers("PUT", target) ?? {},
        signal: controller.signal,
      });
      // The relay reports the outcome on the socket as well, so the answer is not needed.
    } catch (error) {
      if (error instanceof Refusal) this.#refuse(request.ticket, error);
      else if (!controller.signal.aborted) await this.#probe(request);
    } finally {
      this.#open.delete(request.ticket);
      this.#next();
    }
  }

  /**
   * Tells a lost network from a changed file by reading one byte. A failed body looks the same for
   * both.
   */
  async #probe(request: Request): Promise<void> {
    for (const fileId of new Set(request.pieces.map(([id]) => id))) {
      const held = this.tools.held(fileId);
      if (!held) continue;
      const code = await whyUnreadable(held.file);
      if (code) return this.#refuse(request.ticket, new Refusal(code, fileId));
    }
  }

  #refuse(ticket: string, { code, fileId }: Refusal): void {
    const gone = code === "BUSY" && this.tools.isGone(fileId);
    this.tools.unavailable({ ticket, code: gone ? "FILE_GONE" : code, file_id: fileId });
    if (code !== "BUSY") this.tools.broken(fileId, code);
  }

  #report(): void {
    this.tools.owes(this.#open.size + this.#waiting.length);
  }
}

/** Reads a file, and returns nothing or why the file is not the listed one. */
export async function whyUnreadable(file: Blob): Promise<"FILE_CHANGED" | "FILE_GONE" | null> {
  try {
    await file.slice(0, 1).arrayBuffer();
    return null;
  } catch (error) {
    return error instanceof DOMException && error.name === "NotFoundError"
      ? "FILE_GONE"
      : "FILE_CHANGED";
  }
}

export function bodyOf(
  request: Pick<Request, "pieces" | "length">,
  held: UploadTools["held"],
): Blob {
  const parts = request.pieces.map((piece) => sliceOf(piece, held));
  const body = parts.length === 1 && parts[0] ? parts[0] : new Blob(parts);
  if (body.size !== request.length) throw new Refusal("FILE_CHANGED", request.pieces[0]?.[0] ?? "");
  return body;
}

function sliceOf([fileId, first, count]: GroupSpan, held: UploadTools["held"]): Blob {
  const found = held(fileId);
  // A reload lost the file's handle. Requests wait until the file is picked again or taken off the
  // list.
  if (!found) throw new Refusal("BUSY", fileId);
  const { file, size, modified_ms } = found;
  if (file.size !== size || Math.max(0, Math.floor(file.lastModified)) !== modified_ms)
    throw new Refusal("FILE_CHANGED", fileId);
  const group = 2 ** groupLog(size);
  return file.slice(first * group, Math.min(size, (first + count) * group));
}
