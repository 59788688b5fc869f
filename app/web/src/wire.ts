// What the server says: REST answers and stream events. Prices and sizes are strings of plain digits.

export const INTERVALS = [
  "1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M",
] as const;
export type Interval = (typeof INTERVALS)[number];

export interface Instrument {
  symbol: string;
  source: string;
  ticker: string;
  base: string | null;
  quote: string | null;
  kind: string;
  price_scale: number;
  active: boolean;
}

export interface WireCandle {
  time: string;
  open: string;
  high: string;
  low: string;
  close: string;
  volume: string;
  trades: number;
  closed: boolean;
  complete?: boolean | null;
}

export interface Trade {
  trade_id: number;
  time: string;
  price: string;
  size: string;
  side: "buy" | "sell" | null;
}

export interface Ticker {
  time: string | null;
  last: string | null;
  high: string | null;
  low: string | null;
  change: string | null;
  change_percent: string | null;
  volume: string | null;
}

export interface Topic {
  channel: "candles" | "trades" | "ticker";
  symbol: string;
  interval?: Interval;
}

type About = { symbol: string };
type CandleTopic = About & { interval: Interval };

export type StreamEvent =
  | { type: "subscribed"; id: number; channel: Topic["channel"]; symbols: string[]; interval?: Interval }
  | ({ type: "snapshot"; channel: "candles"; candles: WireCandle[] } & CandleTopic)
  | ({ type: "snapshot"; channel: "trades"; trades: Trade[] } & About)
  | ({ type: "snapshot"; channel: "ticker"; ticker: Ticker | null } & About)
  | ({ type: "candle" } & CandleTopic & WireCandle)
  | ({ type: "correction" } & CandleTopic & WireCandle)
  | ({ type: "reset"; channel: "candles" } & CandleTopic)
  | ({ type: "reset"; channel: "trades" | "ticker" } & About)
  | ({ type: "trade" } & About & Trade)
  | ({ type: "ticker" } & About & Ticker)
  | ({ type: "gap"; channel?: Topic["channel"] } & About)
  | { type: "error"; code: string | number; message: string; id?: number | null }
  | { type: "unsubscribed" | "subscriptions" | "heartbeat" | "pong" };
