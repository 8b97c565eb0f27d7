// SPDX-License-Identifier: MIT
// What a model is shown of what a guest says.
// What goes into a model's context is bounded; more than that is said to be missing. So is what is kept of what a guest
// says, which may have no end: characters have up to four bytes.
export const SHOWN = 64 * 1024;
export const KEPT = 4 * SHOWN;

/** The first bytes of `size`, as text. */
export function shown(bytes, size) {
  const text = bytes.toString();
  const more = Math.max(text.length - SHOWN, 0) + Math.max(size - bytes.length, 0);
  return more ? `${text.slice(0, SHOWN)}\n[${more} more characters are not shown]` : text;
}

/** All of a stream, but for what nobody is shown. */
export async function take(stream) {
  const parts = [];
  let size = 0;
  for await (const part of stream) {
    if (size < KEPT) parts.push(part.subarray(0, KEPT - size));
    size += part.length;
  }
  return { bytes: Buffer.concat(parts), size };
}
