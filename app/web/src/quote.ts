// The header's figures and the page's title: last price, change, high, low and volume of the last 24 hours.
import { direction, formatAmount, formatPercent, formatPrice } from "./format.ts";
import { instrumentName } from "./picker.ts";
import type { Instrument, Ticker } from "./wire.ts";

const TITLE_MS = 1_000; // browsers redraw the tab for each new title

export class QuoteBoard {
  private instrument: Instrument | null = null;
  private last: string | null = null;
  private titleTimer = 0;

  constructor(
    private readonly price: HTMLElement,
    private readonly change: HTMLElement,
    private readonly high: HTMLElement,
    private readonly low: HTMLElement,
    private readonly volume: HTMLElement,
  ) {}

  show(instrument: Instrument): void {
    this.instrument = instrument;
    this.last = null;
    document.title = `${instrumentName(instrument)} · Tickwick`;
    for (const node of [this.price, this.high, this.low, this.volume]) node.textContent = "–";
    this.price.className = "last flat";
    this.change.textContent = "";
  }

  update(ticker: Ticker): void {
    if (this.instrument === null || ticker.last === null) return;
    const { price_scale: scale, base } = this.instrument;
    if (this.last !== null && this.last !== ticker.last) {
      this.price.className = `last ${direction(Number(ticker.last) - Number(this.last))}`;
    }
    this.last = ticker.last;
    this.price.textContent = formatPrice(ticker.last, scale);
    this.high.textContent = ticker.high === null ? "–" : formatPrice(ticker.high, scale);
    this.low.textContent = ticker.low === null ? "–" : formatPrice(ticker.low, scale);
    this.volume.textContent = ticker.volume === null ? "–" : `${formatAmount(ticker.volume)} ${base ?? ""}`;
    this.change.textContent = ticker.change_percent === null ? "" : formatPercent(ticker.change_percent);
    this.change.className = `change ${direction(ticker.change_percent ?? 0)}`;
    this.titleTimer ||= window.setTimeout(() => this.entitle(), TITLE_MS);
  }

  private entitle(): void {
    this.titleTimer = 0;
    if (this.instrument === null || this.last === null) return;
    const price = formatPrice(this.last, this.instrument.price_scale);
    document.title = `${price} ${instrumentName(this.instrument)} · Tickwick`;
  }
}
