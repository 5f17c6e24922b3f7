// How every receiving page of the benchmark reads: bytes as they come, a sha256 of each MiB, and one over all of these.
globalThis.BenchDigest = class {
  #hashes = [];
  #buffer = new Uint8Array(1 << 20);
  #fill = 0;
  size = 0;

  add(bytes) {
    this.size += bytes.length;
    while (bytes.length) {
      const n = Math.min(bytes.length, this.#buffer.length - this.#fill);
      this.#buffer.set(bytes.subarray(0, n), this.#fill);
      this.#fill += n;
      bytes = bytes.subarray(n);
      if (this.#fill === this.#buffer.length) this.#close(new Uint8Array(1 << 20));
    }
  }

  #close(next) {
    this.#hashes.push(crypto.subtle.digest("SHA-256", this.#buffer.subarray(0, this.#fill)));
    this.#buffer = next;
    this.#fill = 0;
  }

  async end() {
    if (this.#fill) this.#close(new Uint8Array(0));
    const hashes = await Promise.all(this.#hashes);
    const all = new Uint8Array(hashes.length * 32);
    hashes.forEach((hash, i) => all.set(new Uint8Array(hash), i * 32));
    const whole = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
    return [...whole].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }
};

/** Reads a URL of the page's own origin to its end. */
globalThis.benchPull = async (url) => {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`status ${response.status}`);
  const digest = new BenchDigest();
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) digest.add(part.value);
  return digest.end();
};
