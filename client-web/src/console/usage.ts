/** How full the hub's list is, and by whom (`lanyard status`), in words. */
import { size } from "../lib/format";

export interface Usage {
  bytes: number;
  limit_bytes: number;
  device_limit_bytes: number;
  /** Those with the most first. */
  devices: { public_id: string; name: string; bytes: number }[];
}

/** Names are isolated, so that one written from right to left cannot turn the line around. */
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
