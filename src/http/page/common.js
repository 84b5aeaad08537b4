// What the list and the player's page share: the server's list of streams, names as people read them, copying.

/** Where the site begins: this file lies one folder below it. */
export const ROOT = new URL('../', import.meta.url);

/** Asks for what is live: {now_ms, rtmp_port, applications, streams}, and by how much the server's clock is ahead. */
export async function fetchLive() {
  const asked = Date.now();
  const answer = await fetch(new URL('live.json', ROOT), { cache: 'no-store' });
  if (!answer.ok) throw new Error(`live.json: ${answer.status}`);
  const live = await answer.json();
  const offset_ms = live.now_ms - (asked + Date.now()) / 2;
  return { live, offset_ms, round_ms: Date.now() - asked };
}

/** A stream's id, `app/name`, as a path of an address. */
export function escaped(id) {
  return id.split('/').map(encodeURIComponent).join('/');
}

/** `rtmp://host[:port]`, as seen from this page. */
export function rtmpBase(port) {
  return `rtmp://${location.hostname || 'localhost'}${!port || port === 1935 ? '' : `:${port}`}`;
}

export function codecName(name) {
  return { H264: 'H.264', H265: 'H.265', H266: 'H.266' }[name] ?? name;
}

export function videoWords(video) {
  if (!video) return [];
  const size = video.width ? `${video.width}×${video.height}` : null;
  const fps = video.fps ? `${Math.round(video.fps * 100) / 100} fps` : null;
  return [codecName(video.codec), size, fps].filter(Boolean);
}

export function audioWords(audio) {
  if (!audio) return [];
  const channels = { 1: 'mono', 2: 'stereo', 6: '5.1', 8: '7.1' }[audio.channels];
  const rate = audio.sample_rate ? `${audio.sample_rate / 1000} kHz` : null;
  return [codecName(audio.codec), channels ?? (audio.channels ? `${audio.channels} ch` : null), rate].filter(Boolean);
}

export function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.max(0, Math.floor(seconds))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / (24 * 60))} days`;
}

/** Adds a button to each `.copies dd` below `where` that copies its text. */
export function addCopyButtons(where) {
  for (const place of where.querySelectorAll('.copies dd')) {
    if (place.querySelector('button')) continue;
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'copy';
    button.textContent = 'Copy';
    button.setAttribute('aria-label', `Copy: ${place.previousElementSibling?.textContent ?? ''}`);
    button.addEventListener('click', async () => {
      const done = await copy(place.querySelector('code').textContent);
      button.textContent = done ? 'Copied' : 'Failed';
      setTimeout(() => {
        button.textContent = 'Copy';
      }, 1500);
    });
    place.append(button);
  }
}

/** The clipboard's own interface is there over HTTPS only; the old way works everywhere. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'unseen';
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}
