// The REST side: the list of instruments, and pages of candles.
import { type Bar, toBar } from "./merge.ts";
import type { Instrument, Interval, WireCandle } from "./wire.ts";

const PAGE = 500;

/** The server answered, and refused: what its problem document says. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }

  /** Whether the same request may work later: the server or its database is away, or wants us slower. */
  get passing(): boolean {
    return this.status >= 500 || this.status === 429;
  }
}

export async function fetchInstruments(): Promise<Instrument[]> {
  const answer = await get<{ instruments: Instrument[] }>("api/v1/instruments");
  return answer.instruments;
}

/** At most 500 candles, ascending: the newest, or the newest that start before `end` (seconds UTC). */
export async function fetchBars(symbol: string, interval: Interval, signal: AbortSignal, end?: number): Promise<Bar[]> {
  const query = new URLSearchParams({ interval, limit: String(PAGE) });
  if (end !== undefined) query.set("end", new Date(end * 1000).toISOString());
  const path = `api/v1/candles/${encodeURIComponent(symbol)}?${query}`;
  const answer = await get<{ candles: WireCandle[] }>(path, signal);
  return answer.candles.map(toBar);
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const limit = AbortSignal.timeout(20_000);
  const response = await fetch(new URL(path, document.baseURI), {
    headers: { Accept: "application/json" },
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
  });
  if (response.ok) return (await response.json()) as T;
  const problem = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
  throw new Refused(response.status, problem.detail ?? problem.title ?? `The server answered ${response.status}.`);
}
