/** Links: how a shared file becomes a URL, and how the browser is told to fetch it. */
import type { Signer } from "../identity/signer";
import type { FileRef, LinkMade } from "../protocol/wire";

export class LinkRefused extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export async function makeLink(signer: Signer, files: FileRef[], name: string | undefined, signal: AbortSignal): Promise<LinkMade> {
  const body = JSON.stringify({
    files: files.map(({ public_id, file_id }) => ({ public_id, file_id })),
    ...(name === undefined ? {} : { name }),
  });
  const headers = { ...signer.headers("POST", "/links", body), "Content-Type": "application/json" };
  const response = await fetch("/links", { method: "POST", headers, body, signal });
  const answer = (await response.json().catch(() => ({}))) as Partial<LinkMade & { code: string; message: string }>;
  if (response.status === 201 && answer.link && answer.url?.startsWith("/")) {
    return { link: answer.link, url: answer.url, expires_ms: answer.expires_ms ?? 0 };
  }
  throw new LinkRefused(answer.code ?? `HTTP_${response.status}`, answer.message ?? response.statusText);
}

export async function dropLink(signer: Signer, link: string, signal: AbortSignal): Promise<void> {
  const target = `/links/${link}`;
  await fetch(target, { method: "DELETE", headers: signer.headers("DELETE", target), signal });
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
