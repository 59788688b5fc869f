// Open, high, low, close and volume of the candle under the crosshair, or of the newest one.
import { changePercent, direction, formatAmount, formatBarTime, formatPrice } from "./format.ts";
import type { Bar } from "./merge.ts";
import { instrumentName } from "./picker.ts";
import type { Instrument, Interval } from "./wire.ts";

export class Legend {
  private bars: readonly Bar[] = [];
  private pointed: number | null = null;
  private instrument: Instrument | null = null;
  private interval: Interval = "1m";

  constructor(
    private readonly element: HTMLElement,
    private readonly spoken: HTMLElement,
  ) {}

  show(instrument: Instrument, interval: Interval): void {
    this.instrument = instrument;
    this.interval = interval;
    this.pointed = null;
    this.follow([]);
  }

  follow(bars: readonly Bar[]): void {
    this.bars = bars;
    this.refresh();
  }

  /** `time` of a bar, or null for the newest; what the keyboard points at is read out as well. */
  point(time: number | null, byKey: boolean): void {
    this.pointed = time;
    const bar = this.refresh();
    if (byKey && bar) {
      const { open, high, low, close } = bar;
      this.spoken.textContent =
        `${formatBarTime(bar.time, this.interval)}: open ${open}, high ${high}, low ${low}, close ${close}`;
    }
  }

  refresh(): Bar | undefined {
    const bar = this.bars.findLast(({ time }) => time === this.pointed) ?? this.bars.at(-1);
    this.element.replaceChildren(...(bar ? this.entries(bar) : []));
    return bar;
  }

  private entries(bar: Bar): HTMLElement[] {
    const scale = this.instrument?.price_scale ?? 2;
    const move = direction(Number(bar.close) - Number(bar.open));
    const title = this.instrument ? `${instrumentName(this.instrument)} · ${this.interval}` : "";
    const price = (label: string, digits: string) => entry(label, formatPrice(digits, scale), move);
    const entries = [
      entry("", title, "title"),
      entry("", formatBarTime(bar.time, this.interval), "time"),
      price("O", bar.open),
      price("H", bar.high),
      price("L", bar.low),
      price("C", bar.close),
      entry("", changePercent(bar.open, bar.close), move),
      entry("Vol", formatAmount(bar.volume), "amount"),
    ];
    if (bar.closed && bar.complete === false) entries.push(entry("", "trades missing", "incomplete"));
    return entries;
  }
}

function entry(label: string, text: string, className: string): HTMLElement {
  const node = document.createElement("span");
  node.className = className;
  if (label) {
    const name = document.createElement("b");
    name.textContent = label;
    node.append(name);
  }
  node.append(text);
  return node;
}
