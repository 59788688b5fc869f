// The candles of one instrument at one interval: history and stream joined without hole or repeat.
import { retryDelay } from "./backoff.ts";
import { fetchBars, Refused } from "./history.ts";
import { type Bar, BarBook, type Change, toBar } from "./merge.ts";
import type { Interval, StreamEvent, WireCandle } from "./wire.ts";

/** How long history waits for the subscription: where websockets do not get through, there is still a chart. */
const PATIENCE_MS = 1_500;

export interface FeedListener {
  /** All bars anew: after history came, or older bars. `fresh` the first time. */
  onBars(bars: readonly Bar[], fresh: boolean): void;
  onBar(bar: Bar, change: Change): void;
  /** Why there is no history yet, or null once there is. */
  onTrouble(message: string | null): void;
}

/** Lives from one choice of instrument and interval to the next; `stop` ends its requests. */
export class CandleFeed {
  private readonly book = new BarBook();
  private readonly stopped = new AbortController();
  private syncing = new AbortController();
  private readonly patience: number;
  private fresh = true;
  private loadingOlder = false;
  private noneOlder = false;

  constructor(
    readonly symbol: string,
    readonly interval: Interval,
    private readonly listener: FeedListener,
  ) {
    this.patience = window.setTimeout(() => void this.sync(), PATIENCE_MS);
  }

  get bars(): readonly Bar[] {
    return this.book.bars;
  }

  stop(): void {
    window.clearTimeout(this.patience);
    this.syncing.abort();
    this.stopped.abort();
  }

  /** Takes the stream's candle events; those of other instruments and intervals are not ours. */
  take(event: StreamEvent): void {
    switch (event.type) {
      case "subscribed":
        if (event.channel !== "candles" || !event.symbols.includes(this.symbol)) return;
        if (event.interval === this.interval) void this.sync();
        return;
      case "reset":
        if (event.channel === "candles" && this.owns(event)) void this.sync();
        return;
      case "snapshot":
        if (event.channel !== "candles" || !this.owns(event)) return;
        for (const candle of event.candles) this.apply(candle, false);
        return;
      case "candle":
      case "correction":
        if (this.owns(event)) this.apply(event, event.type === "correction");
    }
  }

  private owns(event: { symbol: string; interval: Interval }): boolean {
    return event.symbol === this.symbol && event.interval === this.interval;
  }

  private apply(candle: WireCandle, correction: boolean): void {
    const bar = toBar(candle);
    const change = this.book.apply(bar, correction);
    if (change) this.listener.onBar(bar, change);
  }

  /** Fetches the newest page and merges it; tries until it comes. The page holds corrections that we may have missed. */
  async sync(): Promise<void> {
    window.clearTimeout(this.patience);
    if (this.stopped.signal.aborted) return;
    this.syncing.abort();
    this.syncing = new AbortController();
    this.book.hold();
    const page = await this.insist(this.syncing.signal);
    if (page === null) return;
    this.book.load(page);
    this.noneOlder = false;
    this.listener.onTrouble(null);
    this.listener.onBars(this.bars, this.fresh);
    this.fresh = false;
  }

  /** Null if another sync took over, or the server will never answer this request. */
  private async insist(signal: AbortSignal): Promise<Bar[] | null> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await fetchBars(this.symbol, this.interval, signal);
      } catch (problem) {
        if (signal.aborted) return null;
        this.listener.onTrouble(problem instanceof Refused ? problem.message : "The server cannot be reached.");
        if (problem instanceof Refused && !problem.passing) return null;
      }
      await new Promise((done) => setTimeout(done, retryDelay(attempt, Math.random())));
      if (signal.aborted) return null;
    }
  }

  /** Loads one page of older candles in front; no more than one at a time, and none where history ends. */
  async older(): Promise<void> {
    const first = this.bars[0];
    if (first === undefined || this.loadingOlder || this.noneOlder) return;
    this.loadingOlder = true;
    try {
      const page = await fetchBars(this.symbol, this.interval, this.stopped.signal, first.time);
      if (this.bars[0]?.time !== first.time) return; // a sync replaced everything meanwhile
      this.noneOlder = page.length === 0;
      if (this.book.prepend(page) > 0) this.listener.onBars(this.bars, false);
    } catch {
      // The next scroll asks again.
    } finally {
      this.loadingOlder = false;
    }
  }
}
