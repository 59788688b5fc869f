// The candles of one chart: history from REST and events from the stream, merged. Pure: no sockets, no screen.
import type { WireCandle } from "./wire.ts";

/** A candle on the time axis: `time` is the start of its bucket in seconds UTC. */
export type Bar = Omit<WireCandle, "time"> & { time: number };

/** What an event did to the series: a new last bar, a new state of the last one, of an older one, or one in between. */
export type Change = "appended" | "updated" | "corrected" | "inserted";

export function toBar(candle: WireCandle): Bar {
  return { ...candle, time: Date.parse(candle.time) / 1000 };
}

/**
 * Bars in ascending order, no time twice.
 *
 * While history is on its way (`hold` … `load`) events wait in a buffer, the newest state per bucket: as large as the
 * number of buckets that pass meanwhile, whatever the rate of ticks.
 */
export class BarBook {
  private sorted: Bar[] = [];
  private held: Map<number, { bar: Bar; correction: boolean }> | null = new Map();

  /** A view that stays live until the next `load`. */
  get bars(): readonly Bar[] {
    return this.sorted;
  }

  /** From now on events wait for the next `load`. */
  hold(): void {
    this.held ??= new Map();
  }

  /**
   * Takes the newest page of history, then the events that waited for it.
   *
   * The page replaces what it covers. Older bars stay if the page reaches back to them; else there would be a hole, and
   * the page replaces everything. Of the events, those older than the page's last bar are already in it, except
   * corrections, which may have been written after the page was read.
   */
  load(page: readonly Bar[]): void {
    const [first, last] = [page[0], page.at(-1)];
    const newest = this.sorted.at(-1);
    const reaches = first !== undefined && newest !== undefined && first.time <= newest.time;
    this.sorted = [...(reaches ? this.sorted.filter((bar) => bar.time < first.time) : []), ...page];
    const held = [...(this.held ?? new Map()).values()].sort((a, b) => a.bar.time - b.bar.time);
    this.held = null;
    for (const { bar, correction } of held) {
      if (correction || last === undefined || bar.time >= last.time) this.place(bar);
    }
  }

  /** Puts a page of older bars in front; what overlaps is dropped. Returns how many bars are new. */
  prepend(page: readonly Bar[]): number {
    const first = this.sorted[0];
    const older = first ? page.filter((bar) => bar.time < first.time) : page;
    this.sorted.unshift(...older);
    return older.length;
  }

  /** Applies an event; undefined if it waits for history, or is older than all that is loaded. */
  apply(bar: Bar, correction: boolean): Change | undefined {
    if (this.held === null) return this.place(bar);
    correction ||= this.held.get(bar.time)?.correction ?? false;
    this.held.set(bar.time, { bar, correction });
    return undefined;
  }

  private place(bar: Bar): Change | undefined {
    const last = this.sorted.at(-1);
    if (last === undefined || bar.time > last.time) {
      this.sorted.push(bar);
      return "appended";
    }
    const index = this.sorted.findLastIndex((known) => known.time <= bar.time);
    const known = this.sorted[index];
    if (known === undefined) return undefined;
    if (known.time !== bar.time) {
      this.sorted.splice(index + 1, 0, bar);
      return "inserted";
    }
    this.sorted[index] = bar;
    return known === last ? "updated" : "corrected";
  }
}
