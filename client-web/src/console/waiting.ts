/** Who waits behind the knock in front: a flood from one address is one line, so that nobody drowns in it. Pure. */
import type { JoinRequestInfo } from "../protocol/wire";

/** From this many on, knocks of one address are told as one. A household behind one address stays a list of names. */
const CROWD = 4;

export interface Waiting {
  address: string;
  /** The oldest first; a crowd when there are several. */
  knocks: JoinRequestInfo[];
}

/** The knock on the card: the one the host put there, else the oldest; somebody who left only when nobody else is there. */
export function inFront(
  knocks: readonly JoinRequestInfo[],
  chosen: string | null,
): JoinRequestInfo | undefined {
  const here = knocks.filter((knock) => !knock.left);
  const isChosen = ({ public_id }: JoinRequestInfo) => public_id === chosen;
  return here.find(isChosen) ?? knocks.find(isChosen) ?? here[0] ?? knocks[0];
}

/** The rest in the order they came; a crowd stands where its first stands. */
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
