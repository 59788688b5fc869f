import assert from "node:assert/strict";
import { test } from "node:test";
import { type Bar, BarBook, toBar } from "../src/merge.ts";

const bar = (time: number, close = "1"): Bar => ({
  time, open: "1", high: "9", low: "1", close, volume: "1", trades: 1, closed: false,
});
const bars = (...times: number[]) => times.map((time) => bar(time));
const times = (book: BarBook) => book.bars.map(({ time }) => time);
const closes = (book: BarBook) => book.bars.map(({ close }) => close).join(" ");

function loaded(...at: number[]): BarBook {
  const book = new BarBook();
  book.load(bars(...at));
  return book;
}

test("toBar turns an ISO time into seconds UTC", () => {
  assert.equal(toBar({ ...bar(0), time: "2021-01-08T00:01:00Z" }).time, 1610064060);
});

test("events before history wait, then replace its last bar and follow it", () => {
  const book = new BarBook();
  assert.equal(book.apply(bar(120, "a"), false), undefined);
  book.apply(bar(180, "b"), false);
  book.apply(bar(180, "c"), false);
  book.load(bars(0, 60, 120));
  assert.deepEqual(times(book), [0, 60, 120, 180]);
  assert.equal(closes(book), "1 1 a c");
});

test("of waiting events older than the last bar only corrections apply", () => {
  const book = new BarBook();
  book.apply(bar(0, "event"), false);
  book.apply(bar(60, "correction"), true);
  book.load(bars(0, 60, 120));
  assert.equal(closes(book), "1 correction 1");
});

test("a waiting correction stays one when a later event of its bucket comes", () => {
  const book = new BarBook();
  book.apply(bar(60, "correction"), true);
  book.apply(bar(60, "newest"), false);
  book.load(bars(60, 120));
  assert.equal(closes(book), "newest 1");
});

test("live events append, update, correct and insert", () => {
  const book = loaded(0, 60, 180);
  assert.equal(book.apply(bar(240), false), "appended");
  assert.equal(book.apply(bar(240, "x"), false), "updated");
  assert.equal(book.apply(bar(60, "y"), true), "corrected");
  assert.equal(book.apply(bar(120, "z"), true), "inserted");
  assert.equal(book.apply(bar(-60), true), undefined, "older than what is loaded");
  assert.deepEqual(times(book), [0, 60, 120, 180, 240]);
  assert.equal(closes(book), "1 y z 1 x");
});

test("a page after a reconnect keeps the older bars that it reaches back to", () => {
  const book = loaded(0, 60, 120);
  book.hold();
  book.load([bar(120, "closed"), bar(180)]);
  assert.deepEqual(times(book), [0, 60, 120, 180]);
  assert.equal(closes(book), "1 1 closed 1");
});

test("a page that leaves a hole replaces everything", () => {
  const book = loaded(0, 60);
  book.hold();
  book.load(bars(600, 660));
  assert.deepEqual(times(book), [600, 660]);
});

test("an empty page empties the book, and the first event fills it", () => {
  const book = loaded(0, 60);
  book.load([]);
  assert.equal(book.apply(bar(120), false), "appended");
  assert.deepEqual(times(book), [120]);
});

test("bars stays a live view over older pages and events", () => {
  const book = loaded(120);
  const view = book.bars;
  book.prepend([]);
  book.prepend(bars(60));
  book.apply(bar(180), false);
  assert.deepEqual(view.map(({ time }) => time), [60, 120, 180]);
});

test("older pages go in front once", () => {
  const book = loaded(120, 180);
  assert.equal(book.prepend(bars(0, 60, 120)), 2);
  assert.equal(book.prepend(bars(0, 60)), 0);
  assert.deepEqual(times(book), [0, 60, 120, 180]);
});
