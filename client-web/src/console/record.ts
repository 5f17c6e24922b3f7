/** The host's record of decisions, as the master app keeps it (`lanyard audit`), in words. */

export interface Line {
  event?: string;
  at_ms?: number;
  name?: string;
  public_id?: string;
  address?: string;
  how?: string;
  admission?: string;
  tries_left?: number;
  /** How often it came since `first_ms`, where it came more than once. */
  count?: number;
  first_ms?: number;
}

export interface Kept {
  /** All lines can be read. */
  whole: boolean;
  lines: Line[];
}

const HOW: Record<string, string> = {
  host: "by you",
  invitation: "by an invitation",
  open_door: "the door stood open",
  own: "this computer",
};

/** Names are isolated, so that one written from right to left cannot turn the sentence around. */
export function recordWords(line: Line): string {
  const times =
    line.count === undefined
      ? ""
      : `, ${String(line.count)} times since ${new Date(line.first_ms ?? 0).toLocaleString()}`;
  return what(line) + times;
}

function what(line: Line): string {
  const who =
    line.name === undefined
      ? `Device ${line.public_id?.slice(0, 8) ?? ""}`
      : `\u2068${line.name}\u2069`;
  switch (line.event) {
    case "knocked":
      return `${who} knocked, from ${line.address ?? ""}`;
    case "left":
      return `${who} left before you answered`;
    case "more_allowed":
      return "More people than usual could ask for ten minutes";
    case "wrong_code":
      return `A wrong code was entered for ${who}`;
    case "approved":
      return `${who} was let in (${HOW[line.how ?? ""] ?? line.how ?? ""})`;
    case "refused":
      return line.how === "time_over" ? `The time of ${who} was over` : `${who} was turned away`;
    case "forgotten":
      return `${who} may knock again`;
    case "renamed":
      return `A device is called ${who} now`;
    case "invited":
      return "An invitation was made";
    case "bad_invitation":
      return `${who} used an invitation that doesn’t work any more`;
    case "door":
      return (
        {
          everyone: "The door was opened to everybody",
          closed: "The door was closed to new devices",
        }[line.admission ?? ""] ?? "New devices are asked about"
      );
    case "relay_ready":
      return "The hub is open";
    case "relay_lost":
      return "The network side of the hub stopped";
    default:
      return "A line that cannot be read";
  }
}

/** Lines that say only which device, with the name that an earlier line gives it. */
export function named(lines: readonly Line[]): Line[] {
  const names = new Map<string, string>();
  return lines.map((line) => {
    if (line.public_id === undefined) return line;
    if (line.name !== undefined) names.set(line.public_id, line.name);
    const name = names.get(line.public_id);
    return name === undefined ? line : { ...line, name };
  });
}

export async function readRecord(token: string | null, signal: AbortSignal): Promise<Kept> {
  const response = await fetch("/console/record", {
    headers: { Authorization: `Bearer ${token ?? ""}` },
    signal,
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()) as Kept;
}
