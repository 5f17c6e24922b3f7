/**
 * Returns which of nine squares are lit for a code. The picture grows with each digit, right or
 * wrong.
 */
export function litSquares(digits: string): boolean[] {
  const lit = Array.from({ length: 9 }, () => false);
  [...digits].slice(0, 6).forEach((digit, at) => {
    if (/\d/.test(digit)) lit[(Number(digit) + 4 * at) % 9] = true;
  });
  return lit;
}
