/** Puts the host's record of decisions (`lanyard audit`) into words. */

export interface Line {
  event?: string;
  at_ms?: number;
  name?: string;
  public_id?: string;
  address?: string;
  how?: string;
  admission?: string;
  tries_left?: number;
  /** The number of occurrences since `first_ms`, if there was more than one. */
  count?: number;
  first_ms?: number;
}

export interface Kept {
  /** True if every line could be read. */
  whole: boolean;
  lines: Line[];
}

const HOW: Record<string, string> = {
  host: "by you",
  invitation: "by an invitation",
  open_door: "the door was open",
  own: "this computer",
};

/** Isolates a name, so that one written from right to left cannot reorder the sentence. */
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
      return line.how === "time_over" ? `${who}’s time ran out` : `${who} was turned away`;
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

/** Adds to lines that give only a device's id the name from an earlier line. */
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
