// The socket: keeps a set of subscriptions alive over reconnects and hands each event to one listener.
import { retryDelay } from "./backoff.ts";
import type { StreamEvent, Topic } from "./wire.ts";

export type StreamState = "connecting" | "live" | "lost";

const SILENCE_MS = 40_000; // the server sends a heartbeat every 15 s
const HANDSHAKE_MS = 10_000;
const MESSAGES_A_SECOND = 8; // the server closes a connection that sends more than 10

/**
 * One connection to `/api/v1/stream`, reconnected for as long as the page lives.
 *
 * `want` names the topics; the stream subscribes to them now and after every reconnect, each time answered by a
 * `subscribed` event, after which nothing is missed until the state changes.
 */
export class Stream {
  private socket: WebSocket | null = null;
  private wanted = new Map<string, Topic>();
  private active = new Map<string, Topic>();
  private sentAt: number[] = [];
  private heardAt = 0;
  private attempt = 0;
  private lastId = 0;
  private retryTimer = 0;
  private flushTimer = 0;

  constructor(
    private readonly onEvent: (event: StreamEvent) => void,
    private readonly onState: (state: StreamState) => void,
  ) {
    window.setInterval(() => this.watch(), 2_000);
    window.addEventListener("online", () => this.reconnectNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.watch());
  }

  connect(): void {
    window.clearTimeout(this.retryTimer);
    this.onState("connecting");
    const url = new URL("api/v1/stream", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.socket = socket;
    this.heardAt = Date.now();
    socket.onopen = () => {
      this.heardAt = Date.now();
      this.onState("live");
      this.flush();
    };
    socket.onmessage = (message: MessageEvent<string>) => {
      this.heardAt = Date.now();
      this.attempt = 0;
      for (const event of JSON.parse(message.data) as StreamEvent[]) this.onEvent(event);
    };
    socket.onclose = (close) => this.lost(close.code);
  }

  /** Replaces the set of topics; only the difference is sent. */
  want(topics: Topic[]): void {
    this.wanted = new Map(topics.map((topic) => [key(topic), topic]));
    this.flush();
  }

  private flush(): void {
    window.clearTimeout(this.flushTimer);
    for (const [id, topic] of this.active) {
      if (!this.wanted.has(id) && this.send("unsubscribe", topic)) this.active.delete(id);
    }
    for (const [id, topic] of this.wanted) {
      if (!this.active.has(id) && this.send("subscribe", topic)) this.active.set(id, topic);
    }
  }

  /** False if the message has to wait: for the socket to open, or for the next second. */
  private send(op: "subscribe" | "unsubscribe", { channel, symbol, interval }: Topic): boolean {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    const now = Date.now();
    this.sentAt = this.sentAt.filter((at) => now - at < 1_000);
    if (this.sentAt.length >= MESSAGES_A_SECOND) {
      window.clearTimeout(this.flushTimer);
      this.flushTimer = window.setTimeout(() => this.flush(), 250);
      return false;
    }
    this.sentAt.push(now);
    this.lastId += 1;
    this.socket.send(JSON.stringify({ op, id: this.lastId, channel, symbols: [symbol], interval }));
    return true;
  }

  /** A half-open connection never closes by itself: silence is the only sign. */
  private watch(): void {
    if (this.socket === null) return;
    const limit = this.socket.readyState === WebSocket.OPEN ? SILENCE_MS : HANDSHAKE_MS;
    if (Date.now() - this.heardAt > limit) this.lost();
  }

  private lost(code?: number): void {
    this.drop();
    this.onState("lost");
    const delay = retryDelay(this.attempt, Math.random(), code);
    this.attempt += 1;
    window.clearTimeout(this.retryTimer);
    this.retryTimer = window.setTimeout(() => this.connect(), delay);
  }

  private reconnectNow(): void {
    if (this.socket?.readyState === WebSocket.OPEN) return;
    this.drop();
    this.connect();
  }

  private drop(): void {
    const socket = this.socket;
    this.socket = null;
    this.active.clear();
    this.sentAt = [];
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}

function key({ channel, symbol, interval }: Topic): string {
  return `${channel} ${symbol} ${interval ?? ""}`;
}
