/** The device's one secret, in IndexedDB, shared by all tabs of this browser. It never leaves it. */
import { type Random, systemRandom } from "./bytes";
import { type Keys, keysFrom } from "./proof";

const DATABASE = "lanyard";
const STORE = "identity";
const KEY = "seed";

/** Two tabs that open at once agree: look and put are one transaction, and those of one store never overlap. */
export async function loadKeys(random: Random = systemRandom, factory: IDBFactory = indexedDB): Promise<Keys> {
  const database = await open(factory);
  try {
    return keysFrom(await getOrPut(database, random(32)));
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

function getOrPut(database: IDBDatabase, fresh: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, "readwrite");
    const store = transaction.objectStore(STORE);
    let seed = fresh;
    const known = store.get(KEY);
    known.onsuccess = () => {
      if (known.result instanceof Uint8Array && known.result.length === 32) seed = known.result;
      else store.put(fresh, KEY);
    };
    transaction.oncomplete = () => resolve(seed);
    transaction.onerror = () => reject(transaction.error ?? new Error("the key was not kept"));
    transaction.onabort = () => reject(transaction.error ?? new Error("the key was not kept"));
  });
}
