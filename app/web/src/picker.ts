// The instrument picker: a button that opens a list with a search field (the ARIA combobox pattern).
import type { Instrument } from "./wire.ts";

const MOST_SHOWN = 200;
const PANEL_WIDTH = 320;

/** "BTC/USDT" where base and quote are known, else the ticker. */
export function instrumentName({ base, quote, ticker }: Instrument): string {
  return base && quote ? `${base}/${quote}` : ticker;
}

/** The instrument that a symbol or an unambiguous bare ticker names. */
export function findInstrument(instruments: readonly Instrument[], symbol: string): Instrument | undefined {
  const wanted = symbol.toUpperCase();
  const exact = instruments.find((instrument) => instrument.symbol.toUpperCase() === wanted);
  if (exact) return exact;
  const tickers = instruments.filter((instrument) => instrument.ticker.toUpperCase() === wanted);
  return tickers.length === 1 ? tickers[0] : undefined;
}

/** Those that contain each word of the query in any order, active ones first. */
export function searchInstruments(instruments: readonly Instrument[], query: string): Instrument[] {
  const words = query.toUpperCase().split(/[\s/]+/).filter(Boolean);
  const found = instruments.filter((instrument) => {
    const text = `${instrument.symbol} ${instrumentName(instrument)}`.toUpperCase();
    return words.every((word) => text.includes(word));
  });
  return found.sort((a, b) => Number(b.active) - Number(a.active) || a.symbol.localeCompare(b.symbol));
}

export interface PickerParts {
  button: HTMLButtonElement;
  panel: HTMLElement;
  input: HTMLInputElement;
  list: HTMLUListElement;
}

export class InstrumentPicker {
  private instruments: readonly Instrument[] = [];
  private chosen: Instrument | null = null;
  private found: Instrument[] = [];
  private marked = 0;

  constructor(
    private readonly parts: PickerParts,
    private readonly onPick: (instrument: Instrument) => void,
  ) {
    const { button, panel, input, list } = parts;
    panel.addEventListener("beforetoggle", (event) => this.onToggle((event as ToggleEvent).newState === "open"));
    panel.addEventListener("toggle", () => this.mark(this.marked)); // in view only now that it is laid out
    input.addEventListener("input", () => this.search());
    input.addEventListener("keydown", (event) => this.onKey(event));
    list.addEventListener("click", (event) => {
      const option = (event.target as Element).closest("li");
      if (option) this.pick(Number(option.dataset["index"]));
    });
    document.addEventListener("keydown", (event) => {
      const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
      if (event.key !== "/" || typing || button.disabled) return;
      event.preventDefault();
      panel.showPopover();
    });
  }

  offer(instruments: readonly Instrument[]): void {
    this.instruments = instruments;
    this.parts.button.disabled = instruments.length === 0;
  }

  choose(instrument: Instrument): void {
    this.chosen = instrument;
  }

  private onToggle(open: boolean): void {
    const { button, panel, input } = this.parts;
    const width = Math.min(PANEL_WIDTH, window.innerWidth - 16);
    button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    const below = button.getBoundingClientRect();
    panel.style.left = `${Math.max(8, Math.min(below.left, window.innerWidth - width - 8))}px`;
    panel.style.width = `${width}px`;
    panel.style.top = `${below.bottom + 6}px`;
    input.value = "";
    this.search();
  }

  private search(): void {
    this.found = searchInstruments(this.instruments, this.parts.input.value).slice(0, MOST_SHOWN);
    const chosen = this.found.findIndex(({ symbol }) => symbol === this.chosen?.symbol);
    this.parts.list.replaceChildren(...this.found.map((instrument, index) => option(instrument, index)));
    this.parts.list.classList.toggle("empty", this.found.length === 0);
    this.mark(Math.max(0, chosen));
    this.parts.list.children[chosen]?.setAttribute("aria-current", "true");
  }

  private mark(index: number): void {
    this.marked = Math.max(0, Math.min(this.found.length - 1, index));
    for (const [at, node] of [...this.parts.list.children].entries()) {
      node.setAttribute("aria-selected", String(at === this.marked));
    }
    const node = this.parts.list.children[this.marked];
    node?.scrollIntoView({ block: "nearest" });
    this.parts.input.setAttribute("aria-activedescendant", node?.id ?? "");
  }

  private onKey(event: KeyboardEvent): void {
    if (event.key === "ArrowDown") this.mark(this.marked + 1);
    else if (event.key === "ArrowUp") this.mark(this.marked - 1);
    else if (event.key === "Enter") this.pick(this.marked);
    else return;
    event.preventDefault();
  }

  private pick(index: number): void {
    const instrument = this.found[index];
    if (instrument === undefined) return;
    this.parts.panel.hidePopover();
    this.parts.button.focus();
    this.onPick(instrument);
  }
}

function option(instrument: Instrument, index: number): HTMLLIElement {
  const node = document.createElement("li");
  node.id = `instrument-${index}`;
  node.dataset["index"] = String(index);
  node.role = "option";
  node.classList.toggle("idle", !instrument.active);
  const name = document.createElement("span");
  name.textContent = instrumentName(instrument);
  const source = document.createElement("small");
  source.textContent = instrument.active ? instrument.source : `${instrument.source} · paused`;
  node.append(name, source);
  return node;
}
