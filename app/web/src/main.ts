// Wires the page: what is chosen, what the stream says, and where it shows.
import { retryDelay } from "./backoff.ts";
import { CandleChart } from "./chart.ts";
import { CandleFeed } from "./feed.ts";
import { fetchInstruments, Refused } from "./history.ts";
import { IntervalBar } from "./intervals.ts";
import { Legend } from "./legend.ts";
import { findInstrument, InstrumentPicker, instrumentName } from "./picker.ts";
import { QuoteBoard } from "./quote.ts";
import { Stream, type StreamState } from "./stream.ts";
import { Tape } from "./tape.ts";
import { type Instrument, type Interval, INTERVALS, type StreamEvent, type Topic } from "./wire.ts";

const CONNECTION: Record<StreamState, string> = { connecting: "Connecting", live: "Live", lost: "Reconnecting" };
const LOOK_AGAIN_MS = 3_000;

const $ = <E extends HTMLElement>(id: string) => document.getElementById(id) as E;

let instruments: Instrument[] = [];
let feed: CandleFeed | null = null;
let instrument: Instrument | null = null;
let interval: Interval = "1m";

const tapeShown = matchMedia("(min-width: 900px)");
const quote = new QuoteBoard($("last"), $("change"), $("high"), $("low"), $("volume"));
const legend = new Legend($("legend"), $("spoken"));
const tape = new Tape($("tape").querySelector("tbody") as HTMLTableSectionElement);
const intervals = new IntervalBar($("intervals"), $("more-intervals"), (picked) => select(instrument, picked));
const picker = new InstrumentPicker(
  { button: $("picker"), panel: $("picker-panel"), input: $("picker-search"), list: $("picker-list") },
  (picked) => select(picked, interval),
);
const chart = new CandleChart($("chart"), {
  onHover: (time, byKey) => legend.point(time, byKey),
  onNearStart: () => void feed?.older(),
  onFollow: (following) => ($("follow").hidden = following),
});
const stream = new Stream(onEvent, onState);

function onEvent(event: StreamEvent): void {
  feed?.take(event);
  if (event.type === "error") notify("Not live", event.message);
  if (instrument === null || !("symbol" in event) || event.symbol !== instrument.symbol) return;
  if (event.type === "ticker") quote.update(event);
  else if (event.type === "trade") tape.add(event);
  else if (event.type === "gap") tape.addGap();
  else if (event.type === "snapshot" && event.channel === "trades") tape.replace(event.trades);
  else if (event.type === "snapshot" && event.channel === "ticker" && event.ticker) quote.update(event.ticker);
}

function onState(state: StreamState): void {
  const connection = $("connection");
  connection.dataset["state"] = state;
  (connection.lastElementChild as HTMLElement).textContent = CONNECTION[state];
  if (state === "live") void refreshInstruments();
}

/** Shows another instrument or interval: everything of the former one stops and leaves the screen. */
function select(next: Instrument | null, nextInterval: Interval): void {
  if (next === null || (next.symbol === instrument?.symbol && nextInterval === feed?.interval)) return;
  if (next.symbol !== instrument?.symbol) {
    tape.show(next.price_scale);
    quote.show(next);
    $("instrument-name").textContent = instrumentName(next);
    $("instrument-source").textContent = next.source;
    picker.choose(next);
  }
  instrument = next;
  interval = nextInterval;
  intervals.show(interval);
  legend.show(instrument, interval);
  history.replaceState(null, "", `?symbol=${instrument.symbol}&interval=${interval}`);
  feed?.stop();
  feed = openFeed(instrument, interval);
  subscribe();
}

function openFeed({ symbol, price_scale }: Instrument, of: Interval): CandleFeed {
  $("chart").classList.add("loading");
  $("follow").hidden = true;
  notify(null);
  return new CandleFeed(symbol, of, {
    onBars: (bars, fresh) => {
      if (fresh) chart.show(of, price_scale);
      $("chart").classList.remove("loading");
      chart.setBars(bars, fresh);
      legend.follow(bars);
      if (bars.length === 0) notify("No candles yet", "They appear here with the first trade.");
    },
    onBar: (bar, change) => {
      notify(null);
      chart.setBar(bar, change);
      legend.refresh();
    },
    onTrouble: (message) => (message === null ? notify(null) : notify("No history right now", message)),
  });
}

function subscribe(): void {
  if (instrument === null) return;
  const { symbol } = instrument;
  const topics: Topic[] = [{ channel: "candles", symbol, interval }, { channel: "ticker", symbol }];
  if (tapeShown.matches) topics.push({ channel: "trades", symbol });
  stream.want(topics);
}

/** A message on the chart: in its middle while it is empty, else small at its foot. */
function notify(title: string | null, text = ""): void {
  const notice = $("notice");
  notice.hidden = title === null;
  notice.classList.toggle("brief", (feed?.bars.length ?? 0) > 0);
  (notice.firstElementChild as HTMLElement).textContent = title;
  (notice.lastElementChild as HTMLElement).textContent = text;
}

/** Fetches the list of instruments and keeps the choice; returns whether there is something to choose. */
async function refreshInstruments(): Promise<boolean> {
  try {
    instruments = await fetchInstruments();
  } catch (problem) {
    if (instrument === null) notify("Waiting for the server", problem instanceof Refused ? problem.message : "");
    return false;
  }
  picker.offer(instruments);
  if (instrument === null) choose();
  return instruments.length > 0;
}

/** The instrument and interval of the address, else the first active one at one minute. */
function choose(): void {
  const query = new URLSearchParams(location.search);
  const named = query.get("symbol");
  const wanted = INTERVALS.find((known) => known === query.get("interval"));
  const found = named === null ? undefined : findInstrument(instruments, named);
  const first = found ?? instruments.find((known) => known.active) ?? instruments[0];
  if (first) select(first, wanted ?? interval);
  else notify("No instruments yet", "They appear here once an ingester or an import brings the first ticks.");
}

async function start(): Promise<void> {
  stream.connect();
  for (let attempt = 0; !(await refreshInstruments()); attempt += 1) {
    await new Promise((done) => setTimeout(done, Math.min(LOOK_AGAIN_MS, retryDelay(attempt, Math.random()))));
  }
}

intervals.show(interval);
$("follow").addEventListener("click", () => chart.follow());
tapeShown.addEventListener("change", subscribe);
document.addEventListener("visibilitychange", () => document.hidden || void feed?.sync());
window.addEventListener("pageshow", (event) => event.persisted && void feed?.sync());
void start();
