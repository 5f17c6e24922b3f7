/** Which rows of a long list are in the window. Pure. */
const AHEAD = 8;

export interface Slice {
  first: number;
  last: number;
}

export function sliceOf(
  scrollTop: number,
  height: number,
  rowHeight: number,
  count: number,
): Slice {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - AHEAD);
  const last = Math.min(count, Math.ceil((scrollTop + height) / rowHeight) + AHEAD);
  return { first: Math.min(first, count), last };
}

/** Where to scroll so that the row is wholly in the window; the same place if it is already. */
export function scrollFor(
  index: number,
  scrollTop: number,
  height: number,
  rowHeight: number,
): number {
  const top = index * rowHeight;
  if (top < scrollTop) return top;
  return Math.max(scrollTop, top + rowHeight - height);
}

/** Which row the keys lead to. */
export function stepOf(key: string, at: number, count: number, page: number): number | null {
  const to = {
    ArrowDown: at + 1,
    ArrowUp: at - 1,
    Home: 0,
    End: count - 1,
    PageDown: at + page,
    PageUp: at - page,
  }[key];
  return to === undefined || count === 0 ? null : Math.max(0, Math.min(count - 1, to));
}
