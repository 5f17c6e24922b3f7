/** Simulates a connection between a device and the hub that can be slow and can be cut. */
import net from "node:net";
import { HOST } from "./hub.mjs";

const TICK_MS = 20;

export class Line {
  #pairs = new Set();
  #cut = false;
  /** The rate towards the device in bytes per second, for all connections together. */
  rate = Infinity;
  #credit = Infinity;

  static async open(bench, hub, rate = Infinity) {
    const line = new Line();
    line.rate = rate;
    line.server = net.createServer((device) => line.#join(device, hub.port));
    await new Promise((resolve) => line.server.listen(0, "127.0.0.1", resolve));
    line.port = line.server.address().port;
    const ticks = setInterval(() => line.#tick(), TICK_MS);
    bench.onClose(() => {
      clearInterval(ticks);
      line.cut();
      line.server.close();
    });
    return line;
  }

  get url() {
    return `http://${HOST}:${this.port}`;
  }

  #join(device, port) {
    if (this.#cut) return device.destroy();
    const hub = net.connect(port, "127.0.0.1");
    const pair = { device, hub };
    this.#pairs.add(pair);
    const end = () => {
      this.#pairs.delete(pair);
      device.destroy();
      hub.destroy();
    };
    for (const socket of [device, hub]) socket.setNoDelay(true).on("error", end).on("close", end);
    device.pipe(hub);
    device.on("drain", () => this.#resume(pair));
    hub.on("end", () => device.end());
    hub.on("data", (bytes) => {
      this.#credit -= bytes.length;
      if (!device.write(bytes) || this.#credit <= 0) hub.pause();
    });
    this.#resume(pair);
  }

  #resume({ device, hub }) {
    if (this.#credit > 0 && !device.writableNeedDrain) hub.resume();
    else hub.pause();
  }

  #tick() {
    this.#credit =
      this.rate === Infinity
        ? Infinity
        : Math.min(this.rate / 10, this.#credit + (this.rate * TICK_MS) / 1000);
    for (const pair of this.#pairs) this.#resume(pair);
  }

  /** Breaks every connection and allows no new one. */
  cut() {
    this.#cut = true;
    for (const { device, hub } of this.#pairs) {
      device.destroy();
      hub.destroy();
    }
  }

  mend() {
    this.#cut = false;
  }
}
