// The interval picker: the common ones as buttons, the others in a select.
import { type Interval, INTERVALS } from "./wire.ts";

const COMMON: readonly Interval[] = ["1s", "1m", "5m", "15m", "1h", "4h", "1d"];
const UNITS: Record<string, string> = { s: "second", m: "minute", h: "hour", d: "day", w: "week", M: "month" };

/** "15m" is "15 minutes". */
export function intervalName(interval: Interval): string {
  const count = Number.parseInt(interval, 10);
  const unit = UNITS[interval.slice(-1)];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

export class IntervalBar {
  private readonly buttons = new Map<Interval, HTMLButtonElement>();

  constructor(
    group: HTMLElement,
    private readonly more: HTMLSelectElement,
    onPick: (interval: Interval) => void,
  ) {
    for (const interval of COMMON) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = interval;
      button.title = intervalName(interval);
      button.addEventListener("click", () => onPick(interval));
      group.append(button);
      this.buttons.set(interval, button);
    }
    const title = new Option("More", "", true, true);
    title.disabled = true;
    title.hidden = true;
    more.add(title);
    for (const interval of INTERVALS) {
      if (!COMMON.includes(interval)) more.add(new Option(interval));
    }
    more.addEventListener("change", () => onPick(more.value as Interval));
  }

  show(interval: Interval): void {
    for (const [known, button] of this.buttons) button.setAttribute("aria-pressed", String(known === interval));
    const common = this.buttons.has(interval);
    this.more.value = common ? "" : interval;
    this.more.classList.toggle("chosen", !common);
  }
}
