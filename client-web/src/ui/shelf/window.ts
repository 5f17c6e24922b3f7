/** Computes which rows of a long list are in the window. Pure. */
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

/**
 * Returns the scroll position that shows the whole row, or the current one if the row is visible.
 */
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

/** Returns the row to which a key leads. */
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
