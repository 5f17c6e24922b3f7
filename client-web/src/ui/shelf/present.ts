/** Decides which devices the rail lists, in which order, and their status texts. */
import type { Client, TransportMode } from "../../protocol/wire";
import type { HubStore } from "../../store.svelte";
import { plural } from "../../lib/format";

/**
 * Returns the devices that are connected or still have files on the list. The host comes first,
 * this device last.
 */
export function present(hub: HubStore): Client[] {
  const rank = (client: Client) =>
    client.kind === "master"
      ? 0
      : client.public_id === hub.me
        ? 3
        : hub.online.has(client.public_id)
          ? 1
          : 2;
  return hub.clients
    .filter(
      ({ public_id }) =>
        public_id === hub.me || hub.online.has(public_id) || hub.fileCounts.has(public_id),
    )
    .sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
}

export function presenceWords(
  hub: HubStore,
  client: Client,
): { text: string; tone: "plain" | "moving" | "asleep" } {
  const { public_id, kind } = client;
  const mine = public_id === hub.me;
  const count = hub.fileCounts.get(public_id) ?? 0;
  const where = hub.whereIs(public_id);
  if (where !== "here")
    return {
      text: where === "asleep" ? "Away until it reconnects" : "Can’t tell right now",
      tone: "asleep",
    };
  if (
    !mine &&
    hub.running.some(
      ({ state, files }) =>
        state === "running" && files.some((file) => file.public_id === public_id),
    )
  ) {
    return { text: "Sending to you", tone: "moving" };
  }
  const takes = [...hub.outgoing.values()]
    .flat()
    .some(({ asker, state }) => asker === public_id && state === "running");
  if (!mine && takes) return { text: "Downloading your files", tone: "moving" };
  const files = count > 0 ? plural(count, "file") : "Nothing shared";
  return {
    text: kind === "master" ? `Host · ${files}` : mine && count > 0 ? `${files} shared` : files,
    tone: "plain",
  };
}

export function transportWords(mode: TransportMode | null): string {
  if (mode === "locked") return "Private on this network";
  if (mode === "encrypted") return "Encrypted on this network";
  return "Not encrypted: others on this network could see what you share";
}
