/** Builds the URLs of links, and hands them to the browser or the clipboard. */
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

/** Returns the path of a link. The name at the end only tells the browser how to call the file. */
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

/** Copies text in a way that also works on plain http, but only during a click. */
export function copyText(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "offscreen";
  // While a dialog is open, everything outside of it is inert and cannot be selected.
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
