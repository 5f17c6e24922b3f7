/** Links: the key that opens one, its hash that names it on the wire, and how the browser is told to fetch it. */
import { drawnLink, type DrawnLink } from "../identity/proof";

export class LinkRefused extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export function drawLink(random: (length: number) => Uint8Array, publicId: string): DrawnLink {
  return drawnLink(random(32), publicId);
}

/** The name at the end is decoration, and what the browser calls the file. */
export function linkPath(key: string, name: string): string {
  return `/d/${key}/${encodeURIComponent(name)}`;
}

/** Hands a URL to the browser's own downloads. */
export function startDownload(url: string): void {
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = "";
  anchor.rel = "noreferrer";
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
}

/** The way to the clipboard that also exists on plain http. Only inside a click. */
export function copyText(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "offscreen";
  // Inside an open dialog everything else is inert and cannot be selected.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  const focused = document.activeElement;
  area.select();
  let copied = false;
  try {
    copied = document.execCommand("copy");
  } catch {
    copied = false;
  }
  area.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  return copied;
}
