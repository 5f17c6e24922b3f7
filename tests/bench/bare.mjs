/** A bare loop that writes to all its sockets, for `bare` of wire.mjs, which starts it. */
import { bareLoop } from "./wire.mjs";

bareLoop();
