/**
 * Draws a QR code as one SVG path: dots for the data, rounded eyes. Dark on light in every theme,
 * because phones do not read it otherwise.
 */
import { encode } from "uqr";

export interface QrPicture {
  size: number;
  path: string;
}

export function qrPicture(text: string): QrPicture {
  const { data, size } = encode(text, { ecc: "M", border: 0 });
  let path = "";
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      if (data[y]?.[x] && !inEye(x, y, size))
        path += `M${x + 0.04} ${y + 0.5}a.46.46 0 1 0 .92 0 .46.46 0 1 0-.92 0`;
    }
  }
  for (const [x, y] of [
    [0, 0],
    [size - 7, 0],
    [0, size - 7],
  ] as const)
    path += eye(x, y);
  return { size, path };
}

function inEye(x: number, y: number, size: number): boolean {
  return (x < 7 && y < 7) || (x >= size - 7 && y < 7) || (x < 7 && y >= size - 7);
}

function eye(x: number, y: number): string {
  const ring = `M${x + 2} ${y}h3a2 2 0 0 1 2 2v3a2 2 0 0 1-2 2h-3a2 2 0 0 1-2-2v-3a2 2 0 0 1 2-2zm0 1a1 1 0 0 0-1 1v3a1 1 0 0 0 1 1h3a1 1 0 0 0 1-1v-3a1 1 0 0 0-1-1z`;
  const core = `M${x + 2.9} ${y + 2}h1.2a.9.9 0 0 1 .9.9v1.2a.9.9 0 0 1-.9.9h-1.2a.9.9 0 0 1-.9-.9v-1.2a.9.9 0 0 1 .9-.9z`;
  return ring + core;
}
