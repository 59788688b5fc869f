// The last trades, newest on top. Drawn at most once a frame into rows that are made once, so any rate is fine.
import { decimalPlaces, formatClock, formatPrice } from "./format.ts";
import type { Trade } from "./wire.ts";

const ROWS = 80;

type Entry = Trade | "gap";

export class Tape {
  private entries: Entry[] = []; // newest first
  private readonly rows: HTMLTableRowElement[];
  private scale = 2;
  private frame = 0;

  constructor(body: HTMLTableSectionElement) {
    this.rows = Array.from({ length: ROWS }, () => {
      const row = body.insertRow();
      row.hidden = true;
      for (let cell = 0; cell < 3; cell += 1) row.insertCell();
      return row;
    });
  }

  /** Empties the tape for another instrument. */
  show(priceScale: number): void {
    this.scale = priceScale;
    this.replace([]);
  }

  /** `trades` ascending, as the server sends them. */
  replace(trades: readonly Trade[]): void {
    this.entries = [];
    for (const trade of trades) this.add(trade);
    this.redraw();
  }

  add(trade: Trade): void {
    const newest = this.entries[0];
    if (newest !== undefined && newest !== "gap" && trade.trade_id <= newest.trade_id) return;
    this.push(trade);
  }

  /** Trades were skipped because we read too slowly. */
  addGap(): void {
    if (this.entries.length > 0 && this.entries[0] !== "gap") this.push("gap");
  }

  private push(entry: Entry): void {
    this.entries.unshift(entry);
    this.entries.length = Math.min(this.entries.length, ROWS);
    this.redraw();
  }

  private redraw(): void {
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    this.frame = 0;
    const trades = this.entries.filter((entry) => entry !== "gap");
    const places = Math.max(0, ...trades.map((trade) => decimalPlaces(trade.size)));
    const largest = Math.max(...trades.map((trade) => Number(trade.size)));
    this.rows.forEach((row, index) => {
      const entry = this.entries[index];
      row.hidden = entry === undefined;
      if (entry === "gap") fill(row, "gap", ["skipped", "", ""], 0);
      else if (entry) {
        const texts = [formatPrice(entry.price, this.scale), formatPrice(entry.size, places), formatClock(entry.time)];
        fill(row, entry.side ?? "", texts, largest > 0 ? Number(entry.size) / largest : 0);
      }
    });
  }
}

function fill(row: HTMLTableRowElement, className: string, texts: string[], share: number): void {
  row.className = className;
  row.style.setProperty("--share", share.toFixed(3));
  texts.forEach((text, cell) => {
    const node = row.cells[cell];
    if (node && node.textContent !== text) node.textContent = text;
  });
}
