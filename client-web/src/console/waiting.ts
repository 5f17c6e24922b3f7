/**
 * Lists the join requests behind the one on the card. A flood from one address is one line. Pure.
 */
import type { JoinRequestInfo } from "../protocol/wire";

/**
 * The number of join requests of one address from which they are one line. A household behind one
 * address stays a list of names.
 */
const CROWD = 4;

export interface Waiting {
  address: string;
  /** Oldest first. More than one request makes the line a crowd. */
  knocks: JoinRequestInfo[];
}

/**
 * Returns the join request for the card: the one the host chose, else the oldest. A device that
 * left comes last.
 */
export function inFront(
  knocks: readonly JoinRequestInfo[],
  chosen: string | null,
): JoinRequestInfo | undefined {
  const here = knocks.filter((knock) => !knock.left);
  const isChosen = ({ public_id }: JoinRequestInfo) => public_id === chosen;
  return here.find(isChosen) ?? knocks.find(isChosen) ?? here[0] ?? knocks[0];
}

/**
 * Returns the other join requests in order of arrival. A crowd takes the place of its first
 * request.
 */
export function waiting(
  knocks: readonly JoinRequestInfo[],
  inFront: JoinRequestInfo | undefined,
): Waiting[] {
  const rest = knocks.filter((knock) => knock.public_id !== inFront?.public_id);
  const lines: Waiting[] = [];
  const crowds = new Map<string, Waiting>();
  for (const knock of rest) {
    const { address } = knock;
    const crowd = crowds.get(address);
    if (crowd) {
      crowd.knocks.push(knock);
      continue;
    }
    const line = { address, knocks: [knock] };
    lines.push(line);
    if (address !== "" && rest.filter((other) => other.address === address).length >= CROWD)
      crowds.set(address, line);
  }
  return lines;
}
