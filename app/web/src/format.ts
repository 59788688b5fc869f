// Numbers and times as people read them. Prices are formatted from their digits: they are never rounded on the way.
import type { Interval } from "./wire.ts";

/** "39439.4" with scale 2 is "39,439.40"; digits beyond the scale stay unless they are zeros. */
export function formatPrice(digits: string, scale: number): string {
  const [whole = "0", fraction = ""] = digits.split(".");
  const places = fraction.slice(0, scale).padEnd(scale, "0") + fraction.slice(scale).replace(/0+$/, "");
  return group(whole) + (places && `.${places}`);
}

/** A price that the chart computed (an axis label), rounded to the scale. */
export function formatAxisPrice(price: number, scale: number): string {
  const [whole = "0", fraction] = price.toFixed(scale).split(".");
  return group(whole) + (fraction ? `.${fraction}` : "");
}

/** How many decimal places the digits need, zeros at the end left out. */
export function decimalPlaces(digits: string): number {
  return (digits.split(".")[1] ?? "").replace(/0+$/, "").length;
}

function group(whole: string): string {
  return whole.replace(/\B(?=(\d{3})+$)/g, ",");
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** An amount for a glance, four digits of it: "1.235M", "12.35", "0.004376". */
export function formatAmount(digits: string): string {
  const amount = Number(digits);
  return amount >= 1000 ? compact.format(amount) : short.format(amount);
}

/** "1.5" is "+1.50%", "-0.204" is "−0.20%". */
export function formatPercent(digits: string | number): string {
  const percent = Number(digits);
  const text = `${Math.abs(percent).toFixed(2)}%`;
  if (Number(percent.toFixed(2)) === 0) return text;
  return (percent < 0 ? "−" : "+") + text;
}

/** How far a candle went from its open to its close. */
export function changePercent(open: string, close: string): string {
  return Number(open) === 0 ? "" : formatPercent((Number(close) / Number(open) - 1) * 100);
}

export function direction(change: string | number): "up" | "down" | "flat" {
  const value = Number(change);
  return value > 0 ? "up" : value < 0 ? "down" : "flat";
}

/** The start of a candle in UTC, as fine as its interval: "2026-11-20 18:35", "2026-11-20", "2026-11". */
export function formatBarTime(seconds: number, interval: Interval): string {
  const iso = new Date(seconds * 1000).toISOString();
  const [day, clock] = [iso.slice(0, 10), iso.slice(11, 19)];
  if (interval === "1M") return iso.slice(0, 7);
  if (/[dw]$/.test(interval)) return day;
  return `${day} ${interval === "1s" ? clock : clock.slice(0, 5)}`;
}

/** The time of day in UTC of an ISO time: "18:35:02". */
export function formatClock(iso: string): string {
  return new Date(iso).toISOString().slice(11, 19);
}
