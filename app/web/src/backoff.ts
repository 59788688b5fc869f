// When to try again.

const FIRST_MS = 500;
const LONGEST_MS = 15_000;

/** 1012: the server restarts, and is back in a moment. 1013, 4408, 4429: it asked for room, so leave it some. */
const SOON = new Set([1012]);
const LATER = new Set([1013, 4408, 4429]);

/**
 * Milliseconds before attempt number `attempt` (from 0), after a close with `code`.
 *
 * Doubles up to 15 s; half of it is random (`random` in 0…1), so that a restart does not bring all clients at once.
 */
export function retryDelay(attempt: number, random: number, code?: number): number {
  const floor = code !== undefined && LATER.has(code) ? 4_000 : FIRST_MS;
  const step = code !== undefined && SOON.has(code) && attempt < 3 ? 0 : attempt;
  const delay = Math.min(LONGEST_MS, floor * 2 ** Math.min(step, 10));
  return delay * (0.5 + random / 2);
}
