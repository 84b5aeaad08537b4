// The list of what is live: asks the server every two seconds and changes only the cards that changed.

import { ROOT, addCopyButtons, audioWords, codecName, duration, escaped, fetchLive, rtmpBase, videoWords } from './common.js';
import { LivePlayer } from './player.js';

const $ = (id) => document.getElementById(id);
const list = $('streams');
const template = $('card');
const cards = new Map();
let failures = 0;
let timer = 0;
let hasToggledPublish = false;

async function refresh() {
  clearTimeout(timer);
  try {
    const { live } = await fetchLive();
    failures = 0;
    show(live);
  } catch {
    failures += 1;
  }
  $('trouble').hidden = failures < 2;
  if (!document.hidden) timer = setTimeout(refresh, Math.min(REFRESH_MOST_MS, REFRESH_MS * 2 ** failures));
}

function show(live) {
  const { streams } = live;
  const seen = new Set();
  streams.sort((a, b) => compare(a.app, b.app) || compare(a.name, b.name));
  for (const [place, stream] of streams.entries()) {
    const id = `${stream.app}/${stream.name}`;
    seen.add(id);
    const card = cards.get(id) ?? newCard(id, stream);
    fill(card, stream);
    if (list.children[place] !== card.item) list.insertBefore(card.item, list.children[place] ?? null);
  }
  for (const [id, card] of cards) {
    if (seen.has(id)) continue;
    card.stopPreview();
    card.item.remove();
    cards.delete(id);
  }
  list.setAttribute('aria-busy', 'false');
  setText($('count'), streams.length > 0 ? `${streams.length} live` : '');
  document.title = streams.length > 0 ? `${streams.length} live` : 'Nothing live';
  $('find').hidden = streams.length <= FIND_FROM;
  filter();
  showPublish(live);
}

function newCard(id, stream) {
  const item = template.content.firstElementChild.cloneNode(true);
  const one = (selector) => item.querySelector(selector);
  const card = { item, link: one('.card'), name: one('h2'), app: one('.app'), chips: one('.chips'), since: one('.since'), viewers: one('.viewers b') };
  const label = stream.name || stream.app;
  card.link.href = new URL(`play/${escaped(id)}`, ROOT);
  card.name.textContent = label;
  card.app.textContent = stream.app;
  one('.initials').textContent = Array.from(label.replace(/[^\p{L}\p{N}]/gu, '') || '•').slice(0, 2).join('').toUpperCase();
  one('.pic').style.setProperty('--hue', hueOf(id));
  card.stopPreview = addPreview(card.link, one('.pic'), id, stream);
  cards.set(id, card);
  return card;
}

function fill(card, stream) {
  setText(card.viewers, String(stream.viewers));
  setText(card.since, duration(stream.since_s));
  const chips = [videoWords(stream.video).join(' · '), audioWords(stream.audio).slice(0, 2).join(' · ')].filter(Boolean);
  const text = chips.join('\n');
  if (card.chipsText === text) return;
  card.chipsText = text;
  card.chips.replaceChildren(...chips.map((words) => Object.assign(document.createElement('span'), { textContent: words })));
  card.link.setAttribute('aria-label', `${card.name.textContent}, ${codecName(stream.video?.codec ?? 'sound only')}`);
}

/** Plays the stream in its card, silently, while a pointer rests on it. */
function addPreview(link, pic, id, stream) {
  let player = null;
  let wait = 0;
  const stop = () => {
    clearTimeout(wait);
    player?.stop();
    player = null;
    pic.querySelector('video')?.remove();
  };
  const isWelcome = matchMedia('(prefers-reduced-motion: no-preference)').matches && !navigator.connection?.saveData;
  if (!isWelcome || !stream.video) return stop;
  link.addEventListener('pointerenter', ({ pointerType }) => {
    if (pointerType !== 'mouse') return; // a finger that touches is about to go there
    stop();
    wait = setTimeout(() => {
      const video = document.createElement('video');
      video.muted = true;
      video.playsInline = true;
      video.tabIndex = -1;
      video.addEventListener('playing', () => video.classList.add('shown'));
      pic.prepend(video);
      player = new LivePlayer(video, { mp4: new URL(`${escaped(id)}.mp4`, ROOT).href, hls: '' });
      player.start();
    }, PREVIEW_AFTER_MS);
  });
  link.addEventListener('pointerleave', stop);
  window.addEventListener('pagehide', stop);
  return stop;
}

function showPublish({ streams, rtmp_port: port, applications }) {
  const empty = streams.length === 0;
  const publish = $('publish');
  $('empty').hidden = !empty;
  publish.hidden = false;
  // Open when there is nothing else to see, unless somebody has decided otherwise.
  if (!hasToggledPublish) publish.open = empty;
  const server = `${rtmpBase(port)}/${applications?.[0] ?? 'live'}`;
  setText($('obs-server'), server);
  setText($('obs-key'), STREAM);
  setText($('ffmpeg-file'), `ffmpeg -re -i movie.mp4 -c copy -f flv "${server}/${STREAM}"`);
  setText(
    $('ffmpeg-test'),
    `ffmpeg -re -f lavfi -i testsrc2=s=1280x720:r=25 -f lavfi -i sine -c:v libx264 -tune zerolatency -pix_fmt yuv420p -g 50 -c:a aac -f flv "${server}/${STREAM}"`,
  );
}

function filter() {
  const words = $('find').hidden ? '' : $('find').value.trim().toLowerCase();
  let shown = 0;
  for (const [id, card] of cards) {
    card.item.hidden = !id.toLowerCase().includes(words);
    if (!card.item.hidden) shown += 1;
  }
  $('none-found').hidden = shown > 0 || cards.size === 0;
}

function hueOf(text) {
  let hash = 7;
  for (const letter of text) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return hash;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const STREAM = 'test';
const REFRESH_MS = 2000;
const REFRESH_MOST_MS = 15_000;
const PREVIEW_AFTER_MS = 400;
/** With fewer streams a search is slower than the eye. */
const FIND_FROM = 8;

addCopyButtons(document);
$('publish').querySelector('summary').addEventListener('click', () => {
  hasToggledPublish = true;
});
$('find').addEventListener('input', filter);
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) refresh();
});
refresh();
