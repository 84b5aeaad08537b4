// Plays one live stream in a <video>: fragments of MP4 by WebSocket into Media Source Extensions, as close to live as the network lets it.
//
// Where a browser has no Media Source Extensions it is given the HLS playlist instead. Everything the player decides, it
// tells in `change` events; what it measures, `stats()` gives.

import { BoxCutter, fragmentStart, hide, producerTime, readTracks } from './mp4.js';

/** What a player is doing. */
export const State = Object.freeze({
  connecting: 'connecting',
  playing: 'playing',
  // Connected, or trying again: there is nothing to play at the moment.
  waiting: 'waiting',
  paused: 'paused',
  // This browser cannot decode it: `detail` is the codec.
  unsupported: 'unsupported',
  denied: 'denied',
});

export class LivePlayer extends EventTarget {
  #video;
  #urls;
  #state = State.connecting;
  #detail = '';
  #source = null;
  #feed = null;
  #failures = 0;
  /** The codec of the track that this browser cannot play. */
  #missing = '';
  #transport = 'websocket';
  #retry = 0;
  #tick = 0;
  #pauseTimer = 0;
  #userPaused = false;
  #stopped = true;
  #lastData = 0;
  #bytes = [];
  #margin = MARGIN_S;
  #lows = [];
  #stalls = 0;
  #isStalled = false;
  #movedTo = 0;
  #movedAt = 0;
  #lastStall = 0;
  #lastCalm = 0;
  #arrivals = new Arrivals();
  #produced = null;
  #clockOffsetMs = 0;
  #listeners = new AbortController();

  /** `urls`: {mp4, hls}, absolute. */
  constructor(video, urls) {
    super();
    this.#video = video;
    this.#urls = urls;
  }

  get state() {
    return this.#state;
  }

  get detail() {
    return this.#detail;
  }

  start() {
    this.#stopped = false;
    const { signal } = this.#listeners;
    const on = (name, handler) => this.#video.addEventListener(name, handler, { signal });
    on('waiting', () => this.#noteStall());
    on('error', () => this.#onMediaError());
    on('pause', () => this.#onPause());
    on('play', () => this.#onPlay());
    document.addEventListener('visibilitychange', () => this.#onVisible(), { signal });
    window.addEventListener('online', () => this.#reconnectNow(), { signal });
    if (!MediaSourceClass) {
      this.#startNative();
      return;
    }
    this.#tick = setInterval(() => this.#watch(), TICK_MS);
    this.#connect();
  }

  /** Ends everything; the player is of no use afterwards. */
  stop() {
    this.#stopped = true;
    this.#listeners.abort();
    clearInterval(this.#tick);
    clearTimeout(this.#retry);
    clearTimeout(this.#pauseTimer);
    this.#disconnect();
    this.#dropSource();
  }

  pause() {
    this.#userPaused = true;
    this.#video.pause();
    this.#say(State.paused);
    clearTimeout(this.#pauseTimer);
    this.#pauseTimer = setTimeout(() => this.#disconnect(), PAUSE_KEEPS_MS);
  }

  /** Goes on after a pause, at the newest picture. */
  resume() {
    this.#userPaused = false;
    clearTimeout(this.#pauseTimer);
    this.#say(State.connecting);
    if (this.#feed || !MediaSourceClass) this.toLive();
    else this.#connect();
  }

  /** To the newest picture there is. */
  toLive() {
    this.#movedAt = performance.now();
    const edge = this.#edge();
    if (edge !== null) this.#video.currentTime = Math.max(edge.start, edge.end - this.#margin);
    this.#lows = [];
    if (this.#video.paused) this.#play();
  }

  /** How far the server's clock is ahead of ours. */
  set clockOffsetMs(value) {
    this.#clockOffsetMs = value;
  }

  stats() {
    const video = this.#video;
    const quality = video.getVideoPlaybackQuality?.();
    const edge = this.#edge();
    const now = performance.now();
    this.#bytes = this.#bytes.filter(([at]) => now - at < RATE_WINDOW_MS);
    const total = this.#bytes.reduce((sum, [, bytes]) => sum + bytes, 0);
    const span = this.#bytes.length > 1 ? now - this.#bytes[0][0] : 0;
    return {
      latency_s: this.#latency(edge),
      buffer_s: edge ? Math.max(0, edge.end - video.currentTime) : 0,
      dropped: quality?.droppedVideoFrames ?? null,
      frames: quality?.totalVideoFrames ?? null,
      width: video.videoWidth,
      height: video.videoHeight,
      codecs: this.#source?.codecs ?? '',
      missing: this.#missing,
      has_sound: this.#source?.shape.includes('audio') ?? null,
      bits_per_s: span > 1000 ? (total * 8000) / span : null,
      rate: video.playbackRate,
      stalls: this.#stalls,
      transport: this.#source || MediaSourceClass ? this.#transport : 'hls',
    };
  }

  // --- the connection ---------------------------------------------------------------------------------------------------

  #connect() {
    if (this.#stopped || this.#userPaused) return;
    this.#disconnect();
    // A connection has a media source of its own: after one was lost nobody knows whether the stream's clock still is the
    // same. The old picture stays until the first fragment is here.
    const session = { cutter: new BoxCutter(), ftyp: null, tracks: [], head: [], begun: false, opened: false };
    const take = (bytes) => {
      if (this.#feed?.session !== session) return;
      try {
        this.#take(session, bytes);
      } catch (error) {
        console.warn('livemill:', error);
        this.#reconnect();
      }
    };
    if (this.#transport === 'websocket' && 'WebSocket' in window) this.#openSocket(session, take);
    else this.#openFetch(session, take);
  }

  #openSocket(session, take) {
    const url = new URL(this.#urls.mp4);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    this.#feed = { session, close: () => socket.close() };
    this.#lastData = performance.now();
    socket.onopen = () => {
      session.opened = true;
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') take(new Uint8Array(data));
    };
    socket.onclose = () => {
      if (this.#feed?.session !== session) return;
      // A socket that never opened does not say why; the answer to a plain request does.
      if (!session.opened) this.#transport = 'fetch';
      this.#reconnect(session.opened ? undefined : 0);
    };
  }

  async #openFetch(session, take) {
    const abort = new AbortController();
    this.#feed = { session, close: () => abort.abort() };
    this.#lastData = performance.now();
    const isOurs = () => this.#feed?.session === session;
    try {
      const answer = await fetch(this.#urls.mp4, { signal: abort.signal, cache: 'no-store' });
      if (!isOurs()) return;
      if (!answer.ok) {
        abort.abort();
        this.#transport = 'websocket';
        const denied = answer.status === 401 || answer.status === 403;
        this.#say(denied ? State.denied : State.waiting);
        this.#reconnect();
        return;
      }
      session.opened = true;
      const reader = answer.body.getReader();
      while (isOurs()) {
        const { done, value } = await reader.read();
        if (done) break;
        take(value);
      }
    } catch (error) {
      if (error.name !== 'AbortError') console.info('livemill:', error.message);
    }
    if (isOurs()) {
      if (!session.begun) this.#transport = 'websocket';
      this.#reconnect();
    }
  }

  #disconnect() {
    clearTimeout(this.#retry);
    const feed = this.#feed;
    this.#feed = null;
    feed?.close();
  }

  #reconnect(wait) {
    this.#disconnect();
    if (this.#stopped) return;
    if (this.#state === State.playing) this.#say(State.connecting);
    const steady = Math.min(RETRY_MOST_MS, RETRY_LEAST_MS * 2 ** this.#failures);
    this.#failures += 1;
    // A little disorder, so that the viewers of a server that was away do not all come back in the same moment.
    this.#retry = setTimeout(() => this.#connect(), wait ?? steady * (0.75 + Math.random() / 2));
  }

  #reconnectNow() {
    if (this.#feed === null || !this.#feed.session.begun) {
      this.#failures = 0;
      this.#connect();
    }
  }

  // --- what comes in ----------------------------------------------------------------------------------------------------

  #take(session, bytes) {
    const now = performance.now();
    const wasAway = now - this.#lastData > HICCUP_MS;
    // After a pause of the publisher nobody knows how his clock relates to ours.
    if (wasAway) this.#arrivals = new Arrivals();
    if (this.#isStalled) this.#endStall(wasAway);
    this.#lastData = now;
    this.#bytes.push([now, bytes.length]);
    for (const box of session.cutter.push(bytes)) {
      switch (box.type) {
        case 'ftyp':
          session.ftyp = box.bytes;
          break;
        case 'moov':
          this.#takeInit(session, session.ftyp ?? new Uint8Array(0), box.bytes);
          break;
        case 'mdat':
          session.head.push(box.bytes);
          this.#source?.append(joined(session.head));
          session.head = [];
          break;
        case 'prft':
          this.#produced = producerTime(box.bytes, session.tracks) ?? this.#produced;
          break;
        case 'moof':
          session.head.push(box.bytes);
          this.#takeTime(session, fragmentStart(box.bytes, session.tracks), now);
          break;
        default: // styp, sidx and what else there may be: nothing to play
      }
    }
  }

  #takeInit(session, ftyp, moov) {
    const tracks = readTracks(moov);
    session.tracks = tracks;
    this.#produced = null;
    const missing = tracks.filter((track) => !isPlayable(`${track.kind}/mp4`, track.codec));
    const playable = tracks.filter((track) => !missing.includes(track));
    if (playable.length === 0) {
      this.#unsupported(missing.map((track) => track.codec).join(', '));
      return;
    }
    // Better a silent picture, or sound alone, than nothing: a browser passes over tracks of a kind it does not know.
    for (const track of missing) hide(track);
    this.#missing = missing.map((track) => track.codec).join(', ');
    const init = joined([ftyp, moov]);
    session.init = init;
    if (this.#state === State.unsupported) this.#say(State.connecting);
    const codecs = playable.map((track) => track.codec).join(',');
    const shape = playable.map((track) => `${track.id}${track.kind}`).join();
    const mime = `${playable.some((track) => track.kind === 'video') ? 'video' : 'audio'}/mp4; codecs="${codecs}"`;
    // The same tracks with other codecs go on in the same buffer; other tracks need a new one.
    const goesOn = session.begun && this.#source?.shape === shape && this.#source.accepts(mime);
    if (goesOn) {
      this.#source.change(mime, codecs, init);
    } else {
      this.#newSource(mime, codecs, shape, init);
      session.latest = null;
    }
    session.begun = true;
  }

  #takeTime(session, start, now) {
    if (start === null) return;
    if (session.latest !== null && start < session.latest - BACKWARDS_S && this.#source) {
      // The clock of the stream began anew within one connection.
      const { mime, codecs, shape } = this.#source;
      this.#newSource(mime, codecs, shape, session.init);
      session.latest = null;
    }
    session.latest = Math.max(start, session.latest ?? start);
    this.#arrivals.note(now, start);
  }

  #unsupported(codec) {
    this.#disconnect();
    this.#dropSource();
    this.#say(State.unsupported, codec);
    // The publisher may change his mind.
    this.#retry = setTimeout(() => this.#connect(), UNSUPPORTED_RETRY_MS);
  }

  // --- the media source -------------------------------------------------------------------------------------------------

  #newSource(mime, codecs, shape, init) {
    this.#dropSource();
    this.#movedAt = performance.now();
    this.#lows = [];
    this.#arrivals = new Arrivals();
    const source = new Source(this.#video, mime, codecs, shape, (problem) => {
      if (this.#source !== source) return;
      console.warn('livemill:', problem);
      this.#reconnect();
    });
    source.append(init);
    this.#source = source;
    this.#play();
  }

  #dropSource() {
    this.#source?.close();
    this.#source = null;
  }

  #play() {
    if (this.#userPaused) return;
    this.#video.play()?.catch((error) => {
      // Sound needs the user's consent; a silent picture does not.
      if (error.name === 'NotAllowedError' && !this.#video.muted) {
        this.#video.muted = true;
        this.#video.play()?.catch(() => {});
      }
    });
  }

  #edge() {
    const { buffered } = this.#video;
    if (buffered.length === 0) return null;
    return { start: buffered.start(buffered.length - 1), end: buffered.end(buffered.length - 1) };
  }

  /** Seconds in the range of the buffer that is playing. */
  #leftBefore(at) {
    const { buffered } = this.#video;
    for (let index = 0; index < buffered.length; index += 1) {
      if (buffered.start(index) <= at && at < buffered.end(index)) return buffered.end(index) - at;
    }
    return 0;
  }

  #latency(edge) {
    const at = this.#video.currentTime;
    if (!MediaSourceClass) {
      const began = this.#video.getStartDate?.().getTime();
      return Number.isFinite(began) ? (Date.now() + this.#clockOffsetMs - began) / 1000 - at : null;
    }
    if (!edge) return null;
    if (this.#produced) {
      const { media_s, wall_ms } = this.#produced;
      return (Date.now() + this.#clockOffsetMs - wall_ms) / 1000 - (at - media_s);
    }
    // Without the publisher's clock: against the fragments that came with the least delay.
    return Math.max(this.#arrivals.behind(performance.now(), at) ?? 0, edge.end - at);
  }

  // --- staying live -----------------------------------------------------------------------------------------------------

  #watch() {
    const video = this.#video;
    const now = performance.now();
    const silent = now - this.#lastData;
    if (this.#feed && silent > SILENCE_MS) {
      // A line may be dead without anybody having said so.
      this.#reconnect();
      return;
    }
    if (video.currentTime !== this.#movedTo) {
      this.#movedTo = video.currentTime;
      this.#movedAt = now;
    }
    const edge = this.#edge();
    if (edge && video.currentTime < edge.end - 0.01 && !video.paused && video.readyState >= 3) {
      this.#failures = 0;
      this.#say(State.playing);
    } else if (this.#state === State.playing && silent > GONE_MS) {
      this.#say(State.waiting);
    } else if (this.#state === State.connecting && this.#feed?.session.opened && silent > GONE_MS) {
      this.#say(State.waiting);
    }
    if (!edge || video.seeking || this.#userPaused) return;
    this.#source?.forget(video.currentTime);
    this.#stayLive(edge, now);
    if (video.paused && video.readyState >= 3) this.#play();
  }

  #stayLive(edge, now) {
    const video = this.#video;
    const ahead = edge.end - video.currentTime;
    const young = now - this.#source.began < SETTLE_MS;
    // A browser that ran dry waits for more than it had asked for before, and again for more each time; before a hole it
    // would wait for ever. Chromium forgets of it when it is told to seek.
    const stands = now - this.#movedAt;
    if (video.currentTime < edge.start - 0.001) {
      // At the start, or before a hole that a publisher left who went away and came back: what is before it is played first.
      if (this.#leftBefore(video.currentTime) > 0.1 && stands < STANDS_MS) return;
      if (edge.end - edge.start > this.#margin || stands > STUCK_MS) this.toLive();
      return;
    }
    const isStuck = stands > STANDS_MS && ahead > this.#margin + STANDS_MS / 1000;
    if (isStuck || ahead > (young ? JUMP_YOUNG_S : JUMP_S) + this.#margin) {
      this.toLive();
      return;
    }
    // The buffer goes up with each fragment and down in between: what counts is how low it gets.
    this.#lows.push([now, ahead]);
    this.#lows = this.#lows.filter(([at]) => now - at < LOWS_MS);
    if (now - this.#lastCalm > CALM_MS) {
      this.#margin = Math.max(MARGIN_S, this.#margin - MARGIN_LESS_S);
      this.#lastCalm = now;
    }
    const excess = Math.min(...this.#lows.map(([, low]) => low)) - this.#margin;
    const rate = [...RATES].find(([above]) => excess > above)?.[1] ?? 1;
    // Once it hurries it goes on until nothing is left; otherwise it would change its pace with every fragment.
    const slower = rate < video.playbackRate && excess > 0.02;
    if (!slower && video.playbackRate !== rate) video.playbackRate = rate;
  }

  #noteStall() {
    const isYoung = !this.#source || performance.now() - this.#source.began < SETTLE_MS;
    this.#isStalled = !isYoung && !this.#video.seeking;
  }

  /** The next bytes tell whether the network was late, or there was nothing to send. */
  #endStall(wasAway) {
    this.#isStalled = false;
    const now = performance.now();
    // What stutters stalls several times for one reason.
    if (wasAway || now - this.#lastStall < ONE_STALL_MS) return;
    this.#stalls += 1;
    this.#lastStall = now;
    this.#lastCalm = now;
    this.#margin = Math.min(MARGIN_MOST_S, this.#margin + MARGIN_MORE_S);
    this.#lows = [];
    this.#video.playbackRate = 1;
  }

  // --- the user and the browser -----------------------------------------------------------------------------------------

  /** A key of the keyboard, a headset or a small window of the system paused it; or else the browser did, for reasons of its own. */
  #onPause() {
    const isOurs = this.#userPaused || this.#video.ended || (document.hidden && !document.pictureInPictureElement);
    const isNew = this.#source !== null && performance.now() - this.#source.began < SETTLE_MS;
    if (!isOurs && !isNew) this.pause();
  }

  #onPlay() {
    if (this.#userPaused) this.resume();
  }

  #onVisible() {
    const edge = this.#edge();
    if (document.hidden || this.#userPaused || !edge) return;
    if (edge.end - this.#video.currentTime > JUMP_YOUNG_S + this.#margin) this.toLive();
    else if (this.#video.paused) this.#play();
  }

  #onMediaError() {
    if (this.#stopped || !this.#video.error) return;
    console.warn('livemill:', this.#video.error.message || `media error ${this.#video.error.code}`);
    if (!MediaSourceClass) {
      this.#say(State.waiting);
      this.#failures += 1;
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => this.#loadNative(), Math.min(RETRY_MOST_MS, RETRY_LEAST_MS * 2 ** this.#failures));
      return;
    }
    this.#reconnect();
  }

  #startNative() {
    if (!this.#video.canPlayType('application/vnd.apple.mpegurl')) {
      this.#say(State.unsupported, 'live video');
      return;
    }
    this.#video.addEventListener('playing', () => this.#say(State.playing), { signal: this.#listeners.signal });
    this.#loadNative();
  }

  #loadNative() {
    this.#video.src = this.#urls.hls;
    this.#play();
  }

  #say(state, detail = '') {
    if (this.#state === state && this.#detail === detail) return;
    this.#state = state;
    this.#detail = detail;
    this.dispatchEvent(new Event('change'));
  }
}

/** Can this browser play that? `kind` is `video/mp4` or `audio/mp4`. */
export function isPlayable(kind, codec) {
  return MediaSourceClass?.isTypeSupported(`${kind}; codecs="${codec}"`) ?? false;
}

/** A media source with its one buffer: takes bytes in order, one append at a time. */
class Source {
  #video;
  #media = new MediaSourceClass();
  #buffer = null;
  #url = '';
  #queue = [];
  #queued = 0;
  #fail;
  #closed = false;

  constructor(video, mime, codecs, shape, fail) {
    this.mime = mime;
    this.codecs = codecs;
    this.shape = shape;
    this.began = performance.now();
    this.#video = video;
    this.#fail = fail;
    this.#media.addEventListener('sourceopen', () => this.#open(mime), { once: true });
    // What ManagedMediaSource asks for; without it Safari would want a second address for AirPlay.
    if ('ManagedMediaSource' in window) video.disableRemotePlayback = true;
    this.#url = URL.createObjectURL(this.#media);
    video.src = this.#url;
  }

  append(bytes) {
    this.#queue.push({ bytes });
    this.#queued += bytes.length;
    if (this.#queued > MAX_QUEUED_BYTES) this.#fail('the browser does not take what comes');
    else this.#pump();
  }

  accepts(mime) {
    return mime === this.mime || (this.#buffer !== null && 'changeType' in this.#buffer);
  }

  change(mime, codecs, init) {
    if (mime !== this.mime) this.#queue.push({ mime });
    this.mime = mime;
    this.codecs = codecs;
    this.append(init);
  }

  /** Gives the past back to the browser. */
  forget(now_s) {
    const buffer = this.#buffer;
    if (!buffer || buffer.updating || buffer.buffered.length === 0) return;
    if (now_s - buffer.buffered.start(0) > PAST_MOST_S) this.#remove(now_s - PAST_LEAST_S);
  }

  close() {
    this.#closed = true;
    this.#queue = [];
    URL.revokeObjectURL(this.#url);
    if (this.#video.src === this.#url) {
      this.#video.removeAttribute('src');
      this.#video.load();
    }
  }

  #open(mime) {
    if (this.#closed) return;
    try {
      this.#media.duration = Infinity;
      this.#buffer = this.#media.addSourceBuffer(mime);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#buffer.mode = 'segments';
    this.#buffer.addEventListener('updateend', () => this.#pump());
    this.#pump();
  }

  #pump() {
    const buffer = this.#buffer;
    if (this.#closed || !buffer || buffer.updating || this.#media.readyState !== 'open') return;
    const next = this.#queue[0];
    if (!next) return;
    try {
      if (next.mime) {
        buffer.changeType(next.mime);
        this.#queue.shift();
        this.#pump();
        return;
      }
      let count = 0;
      let size = 0;
      while (this.#queue[count]?.bytes && (count === 0 || size + this.#queue[count].bytes.length < APPEND_BYTES)) {
        size += this.#queue[count].bytes.length;
        count += 1;
      }
      buffer.appendBuffer(joined(this.#queue.slice(0, count).map((item) => item.bytes)));
      this.#queue.splice(0, count);
      this.#queued -= size;
    } catch (error) {
      const from = buffer.buffered.length > 0 ? buffer.buffered.start(0) : Infinity;
      const until = this.#video.currentTime - 1;
      // Full: whatever has been seen makes room, and the end of that removal tries again.
      if (error.name === 'QuotaExceededError' && until > from) this.#remove(until);
      else this.#fail(error);
    }
  }

  #remove(until_s) {
    try {
      if (until_s > 0) this.#buffer.remove(0, until_s);
    } catch (error) {
      this.#fail(error);
    }
  }
}

/** When fragments came, against when they play: the least delay seen lately is what the network can do. */
class Arrivals {
  #least = null;
  #next = null;
  #since = 0;

  note(now_ms, media_s) {
    const offset = now_ms / 1000 - media_s;
    this.#least = this.#least === null ? offset : Math.min(this.#least, offset);
    this.#next = this.#next === null ? offset : Math.min(this.#next, offset);
    if (now_ms - this.#since > ARRIVALS_MS) {
      // The two clocks drift, and a publisher that comes back has another delay: the past counts for a while only.
      this.#least = this.#next;
      this.#next = null;
      this.#since = now_ms;
    }
  }

  behind(now_ms, media_s) {
    return this.#least === null ? null : now_ms / 1000 - media_s - this.#least;
  }
}

function joined(parts) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// Phones have it in the form that lets the system decide when to fetch.
const MediaSourceClass = window.MediaSource ?? window.ManagedMediaSource;

const TICK_MS = 200;
/** How low the buffer may get before a fragment comes. A stall adds to it; calm takes from it. */
const MARGIN_S = 0.2;
const MARGIN_MORE_S = 0.15;
const MARGIN_LESS_S = 0.1;
const MARGIN_MOST_S = 2;
const CALM_MS = 10_000;
const ONE_STALL_MS = 2000;
/** Too much to catch up by playing faster. */
const JUMP_S = 3;
/** Shortly after the start nobody minds a jump, and it is then that a whole GOP comes at once. */
const JUMP_YOUNG_S = 0.5;
const UNSUPPORTED_RETRY_MS = 15_000;
/** Standing still for so long with something to play is not waiting for the network. */
const STANDS_MS = 500;
const STUCK_MS = 2000;
const SETTLE_MS = 2000;
const LOWS_MS = 1000;
/** From this many seconds too many on, this pace: at 1.1 speech still sounds natural. */
const RATES = [
  [0.8, 1.1],
  [0.4, 1.06],
  [0.15, 1.03],
];
const BACKWARDS_S = 1;
const RETRY_LEAST_MS = 500;
const RETRY_MOST_MS = 8000;
/** A network is late for less; after more, it was the publisher. */
const HICCUP_MS = 1000;
/** No media for so long, and the page says so. */
const GONE_MS = 2500;
/** No byte for so long, and the connection is taken for dead. */
const SILENCE_MS = 20_000;
const PAUSE_KEEPS_MS = 10_000;
const PAST_MOST_S = 30;
const PAST_LEAST_S = 10;
const APPEND_BYTES = 1024 * 1024;
const MAX_QUEUED_BYTES = 64 * 1024 * 1024;
const ARRIVALS_MS = 5000;
const RATE_WINDOW_MS = 5000;
