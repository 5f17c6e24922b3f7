/** The picture of a code: which of nine squares are lit. It grows with each digit and judges none of them. */
export function litSquares(digits: string): boolean[] {
  const lit = Array.from({ length: 9 }, () => false);
  [...digits].slice(0, 6).forEach((digit, at) => {
    if (/\d/.test(digit)) lit[(Number(digit) + 4 * at) % 9] = true;
  });
  return lit;
}
