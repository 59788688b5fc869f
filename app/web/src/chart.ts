// The candle chart: lightweight-charts with our colours, our keys and a volume histogram. It draws numbers, never keeps them.
import {
  CandlestickSeries,
  type CandlestickData,
  ColorType,
  createChart,
  CrosshairMode,
  type HistogramData,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  LineStyle,
  type UTCTimestamp,
} from "lightweight-charts";
import { formatAxisPrice, formatBarTime } from "./format.ts";
import type { Bar, Change } from "./merge.ts";
import type { Interval } from "./wire.ts";

const BARS_BEFORE_OLDER = 60; // so many bars left of the screen's edge: time to fetch more
const BAR_SPACING = 8;
const ROOM_RIGHT = 6;

export interface ChartListener {
  /** The time of the candle under the crosshair, or null when there is none. */
  onHover(time: number | null, byKey: boolean): void;
  onNearStart(): void;
  /** Whether the newest candle is in view. */
  onFollow(following: boolean): void;
}

export class CandleChart {
  private readonly chart: IChartApi;
  private readonly candles: ISeriesApi<"Candlestick">;
  private readonly volume: ISeriesApi<"Histogram">;
  private interval: Interval = "1m";
  private scale = 2;
  private bars: readonly Bar[] = [];
  private cursor: number | null = null; // time of the candle chosen with the keyboard
  private tint = { up: "", down: "" };

  constructor(
    private readonly element: HTMLElement,
    private readonly listener: ChartListener,
  ) {
    this.chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily, fontSize: 11 },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.14, bottom: 0.22 } },
      timeScale: {
        borderVisible: false,
        rightOffset: ROOM_RIGHT,
        barSpacing: BAR_SPACING,
        minBarSpacing: 1,
      },
      localization: {
        locale: "en-GB",
        timeFormatter: (time: number) => formatBarTime(time, this.interval),
      },
    });
    this.candles = this.chart.addSeries(CandlestickSeries, { priceLineStyle: LineStyle.Dotted });
    this.volume = this.chart.addSeries(HistogramSeries, {
      priceScaleId: "",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.paint();
    this.listen();
  }

  private listen(): void {
    this.chart.subscribeCrosshairMove(({ time, sourceEvent }) => {
      if (sourceEvent === undefined) return;
      this.cursor = null;
      this.listener.onHover(typeof time === "number" ? time : null, false);
    });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range === null || this.bars.length === 0) return;
      if (range.from < BARS_BEFORE_OLDER) this.listener.onNearStart();
      this.listener.onFollow(range.to >= this.bars.length - 1);
    });
    this.element.addEventListener("mouseleave", () => this.listener.onHover(null, false));
    this.element.addEventListener("blur", () => this.clearCursor());
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  /** What the next bars are: how their prices and times are written. */
  show(interval: Interval, priceScale: number): void {
    this.interval = interval;
    this.scale = Math.min(priceScale, 16); // a number has no more digits
    this.cursor = null;
    this.chart.clearCrosshairPosition();
    this.chart.applyOptions({ timeScale: { timeVisible: !/[dwM]$/.test(interval), secondsVisible: interval === "1s" } });
    this.candles.applyOptions({
      priceFormat: {
        type: "custom",
        minMove: 10 ** -this.scale,
        formatter: (price: number) => formatAxisPrice(price, this.scale),
      },
    });
  }

  /** `fresh`: of another instrument or interval than before, so the view goes back to the newest candles. */
  setBars(bars: readonly Bar[], fresh: boolean): void {
    this.bars = bars;
    this.candles.setData(bars.map(toCandle));
    this.volume.setData(bars.map((bar) => this.toVolume(bar)));
    const time = this.chart.timeScale();
    time.applyOptions({ fixLeftEdge: bars.length * BAR_SPACING > time.width() }); // few candles stand on the right
    if (!fresh) return;
    this.chart.priceScale("right").applyOptions({ autoScale: true });
    time.applyOptions({ barSpacing: BAR_SPACING });
    this.follow();
  }

  setBar(bar: Bar, change: Change): void {
    if (change === "inserted") {
      this.setBars(this.bars, false); // the library cannot put a bar between two others
      return;
    }
    const older = change === "corrected";
    this.candles.update(toCandle(bar), older);
    this.volume.update(this.toVolume(bar), older);
  }

  /** Goes to the newest candle. */
  follow(): void {
    this.chart.timeScale().scrollToPosition(ROOM_RIGHT, false);
  }

  private paint(): void {
    const style = getComputedStyle(document.documentElement);
    const color = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const label = color("label");
    this.tint = { up: color("up-faint"), down: color("down-faint") };
    this.chart.applyOptions({
      layout: { background: { type: ColorType.Solid, color: color("bg") }, textColor: color("muted") },
      grid: { vertLines: { color: color("grid") }, horzLines: { color: color("grid") } },
      crosshair: {
        vertLine: { color: color("faint"), labelBackgroundColor: label },
        horzLine: { color: color("faint"), labelBackgroundColor: label },
      },
    });
    const [up, down] = [color("up"), color("down")];
    this.candles.applyOptions({
      upColor: up,
      wickUpColor: up,
      borderUpColor: up,
      downColor: down,
      wickDownColor: down,
      borderDownColor: down,
    });
    this.volume.setData(this.bars.map((bar) => this.toVolume(bar)));
  }

  private toVolume(bar: Bar): HistogramData {
    const color = Number(bar.close) >= Number(bar.open) ? this.tint.up : this.tint.down;
    return { time: bar.time as UTCTimestamp, value: Number(bar.volume), color };
  }

  private onKey(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1;
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.moveCursor(-step),
      ArrowRight: () => this.moveCursor(step),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      End: () => this.follow(),
      Escape: () => this.clearCursor(),
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  }

  private zoom(factor: number): void {
    const time = this.chart.timeScale();
    time.applyOptions({ barSpacing: Math.min(60, Math.max(1, time.options().barSpacing * factor)) });
  }

  private moveCursor(step: number): void {
    const end = this.bars.length - 1;
    const chosen = this.cursor;
    const from = chosen === null ? this.bars.length : this.bars.findLastIndex(({ time }) => time <= chosen);
    const index = Math.min(end, Math.max(0, from + step));
    const bar = this.bars[index];
    if (bar === undefined) return;
    this.cursor = bar.time;
    this.reveal(index);
    this.chart.setCrosshairPosition(Number(bar.close), bar.time as UTCTimestamp, this.candles);
    this.listener.onHover(bar.time, true);
  }

  private reveal(index: number): void {
    const time = this.chart.timeScale();
    const range = time.getVisibleLogicalRange();
    if (range === null || (index >= range.from && index <= range.to)) return;
    const width = range.to - range.from;
    const from = index < range.from ? index : index - width;
    time.setVisibleLogicalRange({ from, to: from + width });
  }

  private clearCursor(): void {
    this.cursor = null;
    this.chart.clearCrosshairPosition();
    this.listener.onHover(null, false);
  }
}

function toCandle(bar: Bar): CandlestickData {
  return {
    time: bar.time as UTCTimestamp,
    open: Number(bar.open),
    high: Number(bar.high),
    low: Number(bar.low),
    close: Number(bar.close),
  };
}
