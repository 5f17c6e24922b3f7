/** Creates and reads files as streams, with the same bytes for the same name on every machine. */
import { createCipheriv, createHash } from "node:crypto";
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { open } from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createBLAKE3 } from "hash-wasm";
import { run } from "./processes.mjs";

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
const BLOCK = 4 * MIB;
/** A time long ago, so that no file counts as just changing. */
const MODIFIED = new Date("2024-05-17T12:00:00Z");

function noise(seed) {
  const key = createHash("sha256").update(seed).digest();
  return createCipheriv("aes-128-ctr", key.subarray(0, 16), key.subarray(16));
}

/** Creates noise that neither compression nor a cache by content can shorten. */
export async function makeFile(dir, name, size) {
  const file = path.join(dir, name);
  mkdirSync(path.dirname(file), { recursive: true });
  const cipher = noise(`${name}/${size}`);
  const zeros = Buffer.alloc(Math.min(size, BLOCK));
  function* blocks() {
    for (let left = size; left > 0; left -= BLOCK)
      yield cipher.update(left < BLOCK ? zeros.subarray(0, left) : zeros);
  }
  await pipeline(Readable.from(blocks()), createWriteStream(file));
  utimesSync(file, MODIFIED, MODIFIED);
  return file;
}

/** Creates a folder of `count` small files, spread over sub-folders. */
export function makeFolder(dir, name, count, size) {
  const root = path.join(dir, name);
  const cipher = noise(name);
  const zeros = Buffer.alloc(size);
  for (let n = 0; n < count; n += 1) {
    const below = path.join(root, `part ${String(Math.floor(n / 500)).padStart(2, "0")}`);
    if (n % 500 === 0) mkdirSync(below, { recursive: true });
    writeFileSync(path.join(below, `file ${String(n).padStart(5, "0")}.bin`), cipher.update(zeros));
  }
  return root;
}

async function digest(hash, file) {
  for await (const block of createReadStream(file, { highWaterMark: BLOCK })) hash.update(block);
  return hash.digest("hex");
}

export function sha256(file) {
  return digest(createHash("sha256"), file);
}

/**
 * Hashes with the common program if it is installed, else with a library that shares no code with
 * ours.
 */
export async function blake3(file) {
  const program = await run("b3sum", ["--no-names", file], { patience: 300_000 }).catch(() => null);
  if (program?.code === 0) return program.stdout.trim();
  return digest(await createBLAKE3(), file);
}

/** Lists all files below a folder, by relative path. */
export function tree(root) {
  const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return files
    .map((entry) => path.relative(root, path.join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

/**
 * Hashes the names and bytes of everything below a folder. Reads each file whole, so the files
 * must be small.
 */
export function treeDigest(root) {
  const all = createHash("sha256");
  for (const name of tree(root)) {
    const bytes = readFileSync(path.join(root, name));
    all.update(`${name}\0${bytes.length}\0`).update(bytes);
  }
  return all.digest("hex");
}

export function sizeOf(file) {
  return existsSync(file) ? statSync(file).size : 0;
}

/** Returns the size of everything below a folder, as the disk holds it. */
export function bytesBelow(root) {
  return tree(root).reduce((sum, name) => {
    const stat = statSync(path.join(root, name), { throwIfNoEntry: false });
    return sum + (stat?.blocks ?? 0) * 512;
  }, 0);
}

/** Returns true if two files are equal up to the length of the shorter one. */
export async function isPrefix(part, whole) {
  const length = sizeOf(part);
  const [a, b] = await Promise.all([open(part), open(whole)]);
  try {
    for (let at = 0; at < length; at += BLOCK) {
      const [x, y] = await Promise.all(
        [a, b].map((file) =>
          file.read(Buffer.alloc(Math.min(BLOCK, length - at)), 0, undefined, at),
        ),
      );
      if (!x.buffer.subarray(0, x.bytesRead).equals(y.buffer.subarray(0, x.bytesRead)))
        return false;
    }
    return true;
  } finally {
    await Promise.all([a.close(), b.close()]);
  }
}
