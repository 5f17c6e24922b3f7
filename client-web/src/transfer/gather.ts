/**
 * Gathers files from a picker, a drop or the clipboard, with the paths under which they are
 * listed.
 */

export interface Picked {
  file: File;
  path: string;
}

export interface Gathered {
  picked: Picked[];
  /** Empty folders. */
  emptyFolders: string[];
  /** Names of unreadable files. */
  unreadable: string[];
}

const AT_ONCE = 64;

export function fromPicker(files: Iterable<File>): Gathered {
  const picked = Array.from(files, (file) => ({
    file,
    path: file.webkitRelativePath || file.name,
  }));
  return { picked, emptyFolders: [], unreadable: [] };
}

/**
 * Gathers the files of a drop. Takes the entries before the event handler yields, because the
 * browser empties the transfer afterwards. So the function is not async and returns the promise of
 * the walk.
 */
export function fromDrop(transfer: DataTransfer, signal: AbortSignal): Promise<Gathered> {
  const entries: FileSystemEntry[] = [];
  const loose: File[] = [];
  for (const item of Array.from(transfer.items)) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.() ?? null;
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry);
    else if (file) loose.push(file);
  }
  return walk(entries, fromPicker(loose), signal);
}

/** Names pasted pictures by the time, since they all have the same name. */
export function fromPaste(transfer: DataTransfer | null, now: Date): Gathered {
  const files = Array.from(transfer?.files ?? []);
  const time = `${now.getHours()}.${String(now.getMinutes()).padStart(2, "0")}`;
  const picked = files.map((file) => {
    const nameless = /^image\.(png|jpe?g|gif|webp)$/i.exec(file.name);
    return { file, path: nameless ? `Screenshot ${time}.${nameless[1]}` : file.name };
  });
  return { picked, emptyFolders: [], unreadable: [] };
}

async function walk(
  roots: FileSystemEntry[],
  found: Gathered,
  signal: AbortSignal,
): Promise<Gathered> {
  let level = roots;
  while (level.length > 0) {
    const next: FileSystemEntry[] = [];
    for (let at = 0; at < level.length; at += AT_ONCE) {
      signal.throwIfAborted();
      const below = await Promise.all(
        level.slice(at, at + AT_ONCE).map((entry) => visit(entry, found)),
      );
      for (const entries of below) next.push(...entries);
    }
    level = next;
  }
  return found;
}

async function visit(entry: FileSystemEntry, found: Gathered): Promise<FileSystemEntry[]> {
  const path = entry.fullPath.replace(/^\/+/, "");
  try {
    if (entry.isFile) {
      const file = await new Promise<File>((resolve, reject) =>
        (entry as FileSystemFileEntry).file(resolve, reject),
      );
      found.picked.push({ file, path });
      return [];
    }
    const children = await readAll((entry as FileSystemDirectoryEntry).createReader());
    if (children.length === 0) found.emptyFolders.push(path);
    return children;
  } catch {
    found.unreadable.push(path);
    return [];
  }
}

/** Reads all entries of a folder. A reader returns a hundred at a time, and none at the end. */
async function readAll(reader: FileSystemDirectoryReader): Promise<FileSystemEntry[]> {
  const all: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (some.length === 0) return all;
    all.push(...some);
  }
}
