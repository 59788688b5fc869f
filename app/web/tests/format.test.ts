import assert from "node:assert/strict";
import { test } from "node:test";
import { retryDelay } from "../src/backoff.ts";
import {
  changePercent, decimalPlaces, formatAmount, formatAxisPrice, formatBarTime, formatPercent, formatPrice,
} from "../src/format.ts";
import { intervalName } from "../src/intervals.ts";
import { findInstrument, searchInstruments } from "../src/picker.ts";
import type { Instrument } from "../src/wire.ts";

test("formatPrice groups, pads to the scale and never drops a digit", () => {
  assert.equal(formatPrice("1234567.5", 2), "1,234,567.50");
  assert.equal(formatPrice("0.123456789012345678", 2), "0.123456789012345678");
  assert.equal(formatPrice("39439.44000000", 2), "39,439.44");
  assert.equal(formatPrice("100", 0), "100");
  assert.equal(formatPrice("-1234.5", 1), "-1,234.5");
});

test("formatAxisPrice rounds to the scale", () => {
  assert.equal(formatAxisPrice(73600.004, 2), "73,600.00");
  assert.equal(formatAxisPrice(1500, 0), "1,500");
});

test("amounts and percentages are short", () => {
  assert.equal(formatAmount("18423.1234"), "18.42K");
  assert.equal(formatAmount("0.00437600"), "0.004376");
  assert.equal(decimalPlaces("0.0500"), 2);
  assert.equal(formatPercent("-0.204"), "−0.20%");
  assert.equal(formatPercent("-0.001"), "0.00%");
  assert.equal(changePercent("200", "203"), "+1.50%");
});

test("formatBarTime is as fine as the interval", () => {
  assert.equal(formatBarTime(1610064062, "1s"), "2021-01-08 00:01:02");
  assert.equal(formatBarTime(1610064060, "1m"), "2021-01-08 00:01");
  assert.equal(formatBarTime(1610064000, "1d"), "2021-01-08");
  assert.equal(formatBarTime(1609459200, "1M"), "2021-01");
});

test("intervalName is in words", () => {
  assert.equal(intervalName("15m"), "15 minutes");
  assert.equal(intervalName("1d"), "1 day");
});

test("retryDelay doubles to a limit, and follows what the server asked for", () => {
  assert.deepEqual([0, 1, 2, 9].map((attempt) => retryDelay(attempt, 1)), [500, 1000, 2000, 15000]);
  assert.equal(retryDelay(0, 0), 250);
  assert.equal(retryDelay(2, 1, 1012), 500);
  assert.equal(retryDelay(0, 1, 1013), 4000);
});

const listed = [["SIM", "BTCUSDT", "USDT"], ["BINANCE", "BTCUSDT", "USDT"], ["SIM", "BTCEUR", "EUR"]].map(
  ([source, ticker, quote]) => ({ symbol: `${source}:${ticker}`, source, ticker, base: "BTC", quote, active: source === "SIM" }),
) as Instrument[];

test("findInstrument takes a symbol, or a ticker where it is unambiguous", () => {
  assert.equal(findInstrument(listed, "binance:btcusdt"), listed[1]);
  assert.equal(findInstrument(listed, "BTCEUR"), listed[2]);
  assert.equal(findInstrument(listed, "BTCUSDT"), undefined);
});

test("searchInstruments finds all words, active ones first", () => {
  assert.deepEqual(searchInstruments(listed, "btc/usdt"), [listed[0], listed[1]]);
  assert.deepEqual(searchInstruments(listed, "eur sim"), [listed[2]]);
  assert.deepEqual(searchInstruments(listed, "doge"), []);
});
