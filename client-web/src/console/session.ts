/** Gets the console's token: a one-time secret in the address becomes a token of this tab. */
const TOKEN = "lanyard.console";

/** Takes the secret out of the address, so that no history keeps it. */
export function takeSecret(
  page: Pick<Location, "hash" | "pathname">,
  history: Pick<History, "replaceState">,
): string | null {
  const secret = /^#s=([0-9a-f]+)$/.exec(page.hash)?.[1] ?? null;
  if (page.hash !== "") history.replaceState(null, "", page.pathname);
  return secret;
}

export async function tokenFor(
  secret: string | null,
  storage: Storage,
  signal: AbortSignal,
): Promise<string | null> {
  if (secret === null) return storage.getItem(TOKEN);
  const response = await fetch("/console/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ secret }),
    signal,
  });
  if (!response.ok) return null;
  const { token } = (await response.json()) as { token?: string };
  if (!token) return null;
  storage.setItem(TOKEN, token);
  return token;
}

export function forgetToken(storage: Storage): void {
  storage.removeItem(TOKEN);
}
