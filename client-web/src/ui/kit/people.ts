/** Decides how a device is drawn: a colour from its id, an icon from its kind. */
import type { Client } from "../../protocol/wire";
import type { IconName } from "./icons";

/** Colours dark enough for white strokes in both themes. */
const COLOURS = [
  "#0B5D4E",
  "#B4472F",
  "#3B4AB0",
  "#8A5A00",
  "#6A3F8F",
  "#1F6F8B",
  "#97345F",
  "#4B6A1F",
];

export function colourOf(publicId: string): string {
  return COLOURS[Number.parseInt(publicId.slice(0, 6), 16) % COLOURS.length] ?? "#0B5D4E";
}

export function iconOf(client: Pick<Client, "kind" | "platform"> | undefined): IconName {
  if (client?.kind === "master") return "screen";
  if (client?.kind === "native") return "terminal";
  return /iPhone|iPad|Android/.test(client?.platform ?? "") ? "phone" : "laptop";
}
