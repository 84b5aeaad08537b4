// The player's page: controls, figures and addresses around one `LivePlayer`.

import { ROOT, addCopyButtons, audioWords, duration, escaped, fetchLive, rtmpBase, videoWords } from './common.js';
import { LivePlayer, State } from './player.js';

const $ = (id) => document.getElementById(id);
const video = $('video');
const screen = $('screen');
const isEmbedded = window.top !== window;

// …/play/APP/NAME. Both may have slashes, and a name may be empty: the whole is what identifies a stream.
const id = location.pathname.slice(ROOT.pathname.length + 'play/'.length).split('/').map(decodeURIComponent).join('/');
const title = id.replace(/^[^/]*\//, '') || id.replace(/\/$/, '');
const path = escaped(id);
const media = (suffix) => new URL(`${suffix.startsWith('/') ? path.replace(/\/$/, '') : path}${suffix}${location.search}`, ROOT).href;

const player = new LivePlayer(video, { mp4: media('.mp4'), hls: media('/index.m3u8') });
let stream = null;
let port = null;
let shownAddresses = '';
let isListed = null;
let clock = null;

// --- what the player says -----------------------------------------------------------------------------------------------

function showState() {
  const { state, detail } = player;
  screen.dataset.state = state;
  $('message-text').textContent = {
    [State.connecting]: 'Connecting…',
    [State.waiting]: isListed === false ? 'Not live at the moment. It will start by itself.' : 'Waiting for the picture…',
    [State.denied]: 'Playing this stream is not allowed from here.',
    [State.unsupported]: `This browser cannot play ${codecWords(detail)}. Another browser may, or a player such as VLC with one of the addresses.`,
    [State.playing]: '',
    [State.paused]: '',
  }[state];
  const isPaused = state === State.paused;
  screen.classList.toggle('is-paused', isPaused);
  $('pause').setAttribute('aria-label', isPaused ? 'Play' : 'Pause');
}

function codecWords(codec) {
  const known = [
    ['hvc1', 'H.265 (HEVC)'],
    ['hev1', 'H.265 (HEVC)'],
    ['av01', 'AV1'],
    ['vp09', 'VP9'],
    ['avc', 'H.264'],
    ['mp4a.6', 'MP3'],
    ['mp3', 'MP3'],
    ['mp4a', 'AAC'],
    ['ac-3', 'AC-3'],
    ['ec-3', 'E-AC-3'],
  ];
  return known.find(([start]) => codec.startsWith(start))?.[1] ?? (codec || 'this stream');
}

function showFigures() {
  const stats = player.stats();
  const isShown = player.state === State.playing || player.state === State.paused;
  setText($('latency'), isShown && stats.latency_s !== null ? `${stats.latency_s.toFixed(1)} s` : '');
  screen.classList.toggle('is-late', isShown && stats.buffer_s > LATE_S);
  $('sound-only').hidden = !(player.state === State.playing && stats.width === 0 && video.readyState >= 2);
  screen.classList.toggle('is-silent', stats.has_sound === false);
  const isPart = player.state === State.playing && stats.missing !== '';
  $('note').hidden = !isPart;
  if (isPart) setText($('note'), `${stats.width > 0 ? 'No sound' : 'No picture'}: this browser cannot play ${codecWords(stats.missing)}.`);
  const pace = stats.rate === 1 ? '' : ` (${stats.rate.toFixed(2)}×)`;
  const rows = {
    Latency: stats.latency_s === null ? '–' : `${stats.latency_s.toFixed(2)} s`,
    Buffer: `${stats.buffer_s.toFixed(2)} s${pace}`,
    Dropped: stats.dropped === null ? '–' : `${stats.dropped} of ${stats.frames}`,
    Stalls: String(stats.stalls),
    Resolution: stats.width ? `${stats.width}×${stats.height}` : '–',
    Bitrate: stats.bits_per_s === null ? '–' : bitrate(stats.bits_per_s),
    Codecs: stats.codecs.replace(',', ', ') || '–',
    Transport: { websocket: 'fMP4, WebSocket', fetch: 'fMP4, HTTP', hls: 'HLS' }[stats.transport],
  };
  for (const table of [$('figures'), $('overlay')]) if (!table.hidden) fillTable(table, rows);
}

function fillTable(table, rows) {
  if (table.childElementCount === 0) {
    for (const label of Object.keys(rows)) {
      const row = document.createElement('div');
      row.append(Object.assign(document.createElement('dt'), { textContent: label }), document.createElement('dd'));
      table.append(row);
    }
  }
  for (const [place, value] of Object.values(rows).entries()) setText(table.children[place].lastElementChild, value);
}

function bitrate(bits) {
  return bits < 1_000_000 ? `${Math.round(bits / 1000)} kbit/s` : `${(bits / 1_000_000).toFixed(2)} Mbit/s`;
}

// --- what the server says -----------------------------------------------------------------------------------------------

async function refresh() {
  if (!document.hidden) {
    try {
      const { live, offset_ms, round_ms } = await fetchLive();
      // The quickest answer says most about the clock.
      if (!clock || round_ms <= clock.round_ms) clock = { offset_ms, round_ms };
      player.clockOffsetMs = clock.offset_ms;
      stream = live.streams.find((one) => `${one.app}/${one.name}` === id) ?? null;
      isListed = stream !== null;
      const known = `${live.rtmp_port} ${stream?.outputs}`;
      if (known !== shownAddresses) {
        shownAddresses = known;
        port = live.rtmp_port;
        showAddresses();
      }
      showFacts();
      showState();
    } catch {
      // The player says what is wrong with the connection.
    }
  }
  setTimeout(refresh, REFRESH_MS);
}

function showFacts() {
  const viewers = stream && `${stream.viewers} ${stream.viewers === 1 ? 'viewer' : 'viewers'}`;
  const words = stream && [`live for ${duration(stream.since_s)}`, viewers, videoWords(stream.video).join(' '), audioWords(stream.audio).join(' ')];
  setText($('facts'), words ? words.filter(Boolean).join(' · ') : 'Not live');
}

function showAddresses() {
  const base = location.origin.startsWith('http') ? location.href.split('?')[0] : '';
  const all = {
    RTMP: `${rtmpBase(port)}/${path}${location.search}`,
    HLS: media('/index.m3u8'),
    DASH: media('/manifest.mpd'),
    FLV: media('.flv'),
    MP4: media('.mp4'),
    TS: media('.ts'),
    Embed: `<iframe src="${base}" width="640" height="360" allow="autoplay; fullscreen; picture-in-picture" allowfullscreen></iframe>`,
  };
  // What the application does not offer is not shown; of a stream that is not there nothing is known.
  const offers = stream?.outputs ?? ['hls', 'dash', 'flv', 'mp4', 'ts'];
  const rows = Object.fromEntries(Object.entries(all).filter(([label]) => ['RTMP', 'Embed'].includes(label) || offers.includes(label.toLowerCase())));
  $('addresses').replaceChildren(
    ...Object.entries(rows).map(([label, text]) => {
      const row = document.createElement('div');
      const place = document.createElement('dd');
      place.append(Object.assign(document.createElement('code'), { textContent: text }));
      row.append(Object.assign(document.createElement('dt'), { textContent: label }), place);
      return row;
    }),
  );
  addCopyButtons($('details'));
}

// --- what the user says -------------------------------------------------------------------------------------------------

const actions = {
  pause: () => (player.state === State.paused ? player.resume() : player.pause()),
  mute: () => {
    video.muted = !video.muted;
    if (!video.muted && video.volume === 0) video.volume = 1;
  },
  live: () => (player.state === State.paused ? player.resume() : player.toLive()),
  info: () => {
    const overlay = $('overlay');
    overlay.hidden = !overlay.hidden;
    $('info').setAttribute('aria-expanded', String(!overlay.hidden));
    showFigures();
  },
  small: () => (document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture()),
  full: () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (screen.requestFullscreen) screen.requestFullscreen();
    else video.webkitEnterFullscreen?.(); // the only way an iPhone has
  },
};

const KEYS = { ' ': 'pause', k: 'pause', m: 'mute', l: 'live', i: 'info', p: 'small', f: 'full' };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest('input, a, code')) return;
  // A button that has the focus is pressed by the space bar as everywhere.
  if (event.key === ' ' && event.target.closest('button, summary')) return;
  const step = { ArrowUp: 0.1, ArrowDown: -0.1 }[event.key];
  if (step && (isEmbedded || event.target.closest('#screen'))) {
    video.volume = Math.min(1, Math.max(0, video.volume + step));
    video.muted = false;
  } else if (KEYS[event.key.toLowerCase()]) {
    actions[KEYS[event.key.toLowerCase()]]();
  } else {
    return;
  }
  event.preventDefault();
  wake();
}

function showVolume() {
  screen.classList.toggle('is-muted', video.muted || video.volume === 0);
  $('unmute').hidden = !video.muted || hasChosenSound;
  $('volume').value = video.muted ? 0 : Math.round(video.volume * 100);
  $('mute').setAttribute('aria-label', video.muted ? 'Sound on' : 'Mute');
}

/** Shows the controls for a while. */
function wake() {
  screen.classList.add('is-awake');
  clearTimeout(sleepTimer);
  sleepTimer = setTimeout(() => screen.classList.remove('is-awake'), AWAKE_MS);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let sleepTimer = 0;
let hasChosenSound = false;
const REFRESH_MS = 5000;
const FIGURES_MS = 500;
const AWAKE_MS = 3000;
/** From here on the button says that there is something newer. */
const LATE_S = 3;

document.title = title;
$('name').textContent = title;
document.body.classList.toggle('is-embedded', isEmbedded);
if (isEmbedded) $('details').hidden = true;
for (const id of Object.keys(actions)) $(id).addEventListener('click', actions[id]);
$('small').hidden = !document.pictureInPictureEnabled;
$('unmute').addEventListener('click', () => {
  video.muted = false;
  hasChosenSound = true;
  showVolume();
});
$('mute').addEventListener('click', () => {
  hasChosenSound = true;
});
$('volume').addEventListener('input', () => {
  video.volume = $('volume').value / 100;
  video.muted = video.volume === 0;
  hasChosenSound = true;
});
video.addEventListener('volumechange', showVolume);
video.addEventListener('dblclick', actions.full);
// A click pauses where there is a mouse; a finger wants the controls.
video.addEventListener('click', ({ pointerType }) => (pointerType === 'touch' ? wake() : actions.pause()));
for (const event of ['pointermove', 'pointerdown', 'focusin']) screen.addEventListener(event, wake);
document.addEventListener('keydown', onKey);
player.addEventListener('change', showState);

video.muted = true;
showVolume();
showAddresses();
showState();
showFigures();
wake();
player.start();
setInterval(showFigures, FIGURES_MS);
refresh();
// For tests, and for the curious in the browser's console.
window.livemill = player;
