/** Sums up all running transfers. Pure. */
import type { Download } from "../../downloads/downloads";
import type { OutgoingTransfer } from "../../sharing/outgoing";

export interface Totals {
  arriving: number;
  leaving: number;
  done: number;
  total: number;
  rate: number;
}

export function totalsOf(
  running: Download[],
  outgoing: ReadonlyMap<string, OutgoingTransfer[]>,
): Totals {
  const out = [...outgoing.values()].flat();
  const all = [
    ...running.map(({ done, size, rate, state }) => ({
      done,
      total: size,
      rate: state === "running" ? rate : 0,
    })),
    ...out,
  ];
  return {
    arriving: running.length,
    leaving: out.length,
    done: all.reduce((sum, one) => sum + one.done, 0),
    total: all.reduce((sum, one) => sum + one.total, 0),
    rate: all.reduce((sum, one) => sum + one.rate, 0),
  };
}

export function totalsWords({ arriving, leaving }: Totals): string {
  const parts = [
    arriving > 0 ? `downloading ${arriving}` : "",
    leaving > 0 ? `sending ${leaving}` : "",
  ];
  const text = parts.filter(Boolean).join(" · ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
