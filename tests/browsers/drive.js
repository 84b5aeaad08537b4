// Plays one stream in every player at once, in a headless Chromium, and says on its output what came of it.
//
//     node drive.js MODULES CHROMIUM SECONDS PLAYERS
//
// MODULES: the node_modules folder with the players and puppeteer-core. PLAYERS: JSON, [{name, player, url, clock}],
// where `player` is one of player.js, or `page` for an address of our page, and `clock: false` says that none is painted
// into the picture. Lines of JSON come out: {"event":
// "playing"} when all of them show a picture, {"event": "half"} when half of the time is over, {"event": "result", …}
// for each player in the end.

'use strict';

const fs = require('fs');
const http = require('http');
const path = require('path');

const [modules, chromium, seconds, playersJson] = process.argv.slice(2);
const puppeteer = require(path.join(modules, 'puppeteer-core'));
const players = JSON.parse(playersJson);
const sampler = fs.readFileSync(path.join(__dirname, 'sample.js'), 'utf8');
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The players come from an origin of their own, as they do in life: what they ask of the server crosses origins. */
function serveFiles() {
  const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8' };
  const server = http.createServer((request, answer) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const file = pathname.startsWith('/lib/') ? path.join(modules, pathname.slice(5)) : path.join(__dirname, path.basename(pathname));
    fs.readFile(file, (error, body) => {
      answer.writeHead(error ? 404 : 200, { 'content-type': types[path.extname(file)] ?? 'application/octet-stream' });
      answer.end(body);
    });
  });
  return new Promise((ready) => {
    server.listen(0, '127.0.0.1', () => ready({ server, origin: `http://127.0.0.1:${server.address().port}` }));
  });
}

async function open(browser, origin, { name, player, url, clock: hasClock = true }) {
  // A context has a window of its own; a tab behind another one would not paint.
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const said = [];
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) said.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => said.push(`exception: ${error.message}`));
  if (player === 'page without sockets') {
    await page.evaluateOnNewDocument(() => {
      delete window.WebSocket;
    });
  }
  const isPage = player.startsWith('page');
  const query = new URLSearchParams({ player, url });
  await page.goto(isPage ? url : `${origin}/player.html?${query}`);
  await page.evaluate(sampler);
  return { name, page, said, hasClock };
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Of a stream without a clock in its picture only our own page can tell, by what it says of itself. */
async function isPlaying({ page, hasClock }) {
  if (hasClock) return page.evaluate(() => window.sampled().samples.length > 5);
  return page.evaluate(() => ['playing', 'unsupported'].includes(window.livemill.state));
}

/** How things stand, for whoever looks for a fault. */
function standing() {
  const video = document.querySelector('video');
  const ranges = Array.from({ length: video.buffered.length }, (_, at) => `${video.buffered.start(at)}-${video.buffered.end(at)}`);
  return `at ${video.currentTime} of ${ranges}, ready state ${video.readyState}, rate ${video.playbackRate}, paused ${video.paused}`;
}

/** What our own page says of itself. */
function ofPage() {
  return window.livemill && { state: window.livemill.state, note: document.getElementById('note').textContent, ...window.livemill.stats() };
}

async function main() {
  const { server, origin } = await serveFiles();
  const browser = await puppeteer.launch({
    executablePath: chromium,
    headless: true,
    // As root, which containers and CI are, Chromium runs without its sandbox or not at all. It sees this server's pages only.
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-dev-shm-usage', '--mute-audio'],
  });
  try {
    say({ event: 'browser', version: await browser.version() });
    const opened = [];
    // One after the other: to start them all at once is no viewer's habit, and stalls that come of it stay in their memory.
    for (const player of players) {
      const one = await open(browser, origin, player);
      opened.push(one);
      const deadline = Date.now() + START_DEADLINE_MS;
      while (!(await isPlaying(one)) && Date.now() < deadline) await sleep(100);
    }
    const began = Date.now();
    say({ event: 'playing' });
    await sleep((seconds * 1000) / 2);
    const half = Date.now();
    say({ event: 'half' });
    await sleep((seconds * 1000) / 2);
    const ended = Date.now();
    for (const { name, page, said } of opened) {
      const { samples, errors, unreadable } = await page.evaluate(() => window.sampled());
      said.push(await page.evaluate(standing));
      const ofItself = await page.evaluate(ofPage);
      say({ event: 'result', name, began, half, ended, samples, errors, unreadable, said: said.slice(-20), page: ofItself });
    }
  } finally {
    await browser.close();
    server.close();
  }
}

/** For one of them, on two busy processors. */
const START_DEADLINE_MS = 15_000;

main().catch((error) => {
  say({ event: 'failed', error: String(error.stack ?? error) });
  process.exitCode = 1;
});
