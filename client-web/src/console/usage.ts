/** Puts the usage of the hub's list (`lanyard status`) into words. */
import { size } from "../lib/format";

export interface Usage {
  bytes: number;
  limit_bytes: number;
  device_limit_bytes: number;
  /** Sorted by usage, the largest first. */
  devices: { public_id: string; name: string; bytes: number }[];
}

/** Isolates a name, so that one written from right to left cannot reorder the line. */
export function usageWords({ devices, device_limit_bytes: limit }: Usage): string[] {
  return devices.map(({ name, bytes }) => `\u2068${name}\u2069: ${size(bytes)} of ${size(limit)}`);
}

export async function readUsage(token: string | null, signal: AbortSignal): Promise<Usage> {
  const response = await fetch("/console/usage", {
    headers: { Authorization: `Bearer ${token ?? ""}` },
    signal,
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()) as Usage;
}
