/** Provides the sentences for failures: the cause, what is safe, and the next step. */
const SENTENCES: Record<string, string> = {
  FILE_CHANGED: "It changed while it was arriving. Nothing broken was saved.",
  FILE_GONE: "Its owner no longer has this file.",
  NOT_FOUND: "Its owner no longer has this file.",
  OWNER_AWAY: "Its owner left. It continues when they come back.",
  BUSY: "The hub is passing on as much as it can. You are next.",
  SERVER_NOT_READY: "The host stepped away. Try again when it is back.",
  NOT_APPROVED: "This device is not let in.",
  PATH_REJECTED: "Its name cannot travel to every system.",
  TOO_LARGE: "It is larger than one file may be.",
  QUOTA: "This device already shares as much as the hub lists.",
  ID_TAKEN: "It changed since it was shared. Pick it again.",
  TIMED_OUT: "Nobody answered in time.",
};

/** Codes with several causes. The hub's own message names the limit and its owner. */
const SAID_BY_THE_HUB = new Set(["QUOTA"]);

export function sentence(code: string, message = ""): string {
  if (SAID_BY_THE_HUB.has(code) && message)
    return `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  return SENTENCES[code] ?? (message || "It did not work.");
}
