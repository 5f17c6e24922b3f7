/** Provides the sentences for failures: the cause, what is safe, and the next step. */
const SENTENCES: Record<string, string> = {
  FILE_CHANGED: "The file changed during the download. Nothing broken was saved.",
  FILE_GONE: "Its owner no longer has this file.",
  NOT_FOUND: "Its owner no longer has this file.",
  OWNER_AWAY: "Its owner disconnected. The download continues when they’re back.",
  BUSY: "The hub is busy right now. Your turn comes by itself.",
  SERVER_NOT_READY: "The host is away. Try again when it’s back.",
  NOT_APPROVED: "This device hasn’t been let in.",
  PATH_REJECTED: "Not every system can store a file with this name.",
  TOO_LARGE: "This file is too large to share.",
  QUOTA: "This device already shares as much as the hub can list.",
  ID_TAKEN: "The file has changed since it was shared. Pick it again.",
  TIMED_OUT: "Nobody answered in time.",
};

/** Codes with several causes. The hub's own message names the limit and its owner. */
const SAID_BY_THE_HUB = new Set(["QUOTA"]);

export function sentence(code: string, message = ""): string {
  if (SAID_BY_THE_HUB.has(code) && message)
    return `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  return SENTENCES[code] ?? (message || "That didn’t work.");
}
