/**
 * Keeps the device's secret in IndexedDB, shared by all tabs of this browser, which it never
 * leaves. On https the browser holds the key and signs with it, out of reach of scripts. Elsewhere
 * the page holds the key's bytes.
 */
import { type Random, systemRandom } from "./bytes";
import { type Keys, type KeptPair, keysFrom, keysOf, newPair } from "./proof";

const DATABASE = "lanyard";
const STORE = "identity";
const KEY = "seed";

type Kept = Uint8Array | KeptPair;

export async function loadKeys(
  random: Random = systemRandom,
  factory: IDBFactory = indexedDB,
  makePair: (fileKey: Uint8Array) => Promise<KeptPair | null> = newPair,
): Promise<Keys> {
  const database = await open(factory);
  try {
    // Creating a key takes longer than a transaction lives. Two tabs that open at once may both
    // create one; the first one stored wins.
    const known = await getOrPut(database, null);
    const kept = known ?? (await getOrPut(database, (await makePair(random(32))) ?? random(32)));
    if (kept === null) throw new Error("the key was not kept");
    return kept instanceof Uint8Array ? keysFrom(kept) : keysOf(kept);
  } finally {
    database.close();
  }
}

function open(factory: IDBFactory): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = factory.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("no database"));
    request.onblocked = () => reject(new Error("the database is blocked"));
  });
}

/**
 * Reads and writes in one transaction. Transactions on one store never overlap, so the second tab
 * gets the first one's key.
 */
function getOrPut(database: IDBDatabase, fresh: Kept | null): Promise<Kept | null> {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, fresh === null ? "readonly" : "readwrite");
    const store = transaction.objectStore(STORE);
    let kept = fresh;
    const known = store.get(KEY);
    known.onsuccess = () => {
      if (isKept(known.result)) kept = known.result;
      else if (fresh !== null) store.put(fresh, KEY);
    };
    transaction.oncomplete = () => resolve(kept);
    transaction.onerror = () => reject(transaction.error ?? new Error("the key was not kept"));
    transaction.onabort = () => reject(transaction.error ?? new Error("the key was not kept"));
  });
}

function isKept(found: unknown): found is Kept {
  return (
    (found instanceof Uint8Array && found.length === 32) ||
    (typeof found === "object" && found !== null && "privateKey" in found)
  );
}
