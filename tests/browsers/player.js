// Starts the player that the query names on the address that it gives: /player.html?player=…&url=…
//
// Each is set up as its own documentation says for live streams; what it calls fatal goes into `playerErrors`.

const query = new URLSearchParams(location.search);
const url = query.get('url');
const video = document.querySelector('video');
window.playerErrors = [];
const failed = (what) => window.playerErrors.push(String(what));

// For those that leave it to the page. The others listen for their own call of it.
function play() {
  video.play().catch((error) => error.name === 'AbortError' || failed(error));
}

function load(path) {
  return new Promise((done, refused) => {
    const script = Object.assign(document.createElement('script'), { src: path, onload: done, onerror: () => refused(new Error(path)) });
    document.head.append(script);
  });
}

const players = {
  async 'hls.js'() {
    await load('/lib/hls.js/dist/hls.js');
    const hls = new Hls({ lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.2 });
    hls.on(Hls.Events.ERROR, (_, data) => {
      if (data.fatal) failed(`${data.type} ${data.details} ${data.error?.message ?? ''}`);
    });
    hls.loadSource(url);
    hls.attachMedia(video);
    play();
    window.player = hls;
  },

  async 'mpegts.js'() {
    await load('/lib/mpegts.js/dist/mpegts.js');
    const type = new URL(url).pathname.endsWith('.ts') ? 'mpegts' : 'flv';
    const live = { enableStashBuffer: false, liveSync: true, liveSyncMaxLatency: 0.6, liveSyncTargetLatency: 0.3 };
    const player = mpegts.createPlayer({ type, isLive: true, url, cors: true }, live);
    player.on(mpegts.Events.ERROR, (kind, detail, info) => failed(`${kind} ${detail} ${info?.msg ?? ''}`));
    player.on(mpegts.Events.LOADING_COMPLETE, () => failed('the stream ended'));
    player.attachMediaElement(video);
    player.load();
    play();
    window.player = player;
  },

  async 'dash.js'() {
    await load('/lib/dashjs/dist/modern/umd/dash.all.debug.js');
    const player = dashjs.MediaPlayer().create();
    player.on(dashjs.MediaPlayer.events.ERROR, ({ error }) => failed(`${error?.code} ${error?.message}`));
    player.initialize(video, url, true);
    window.player = player;
  },

  async 'video.js'() {
    await load('/lib/video.js/dist/video.js');
    const player = videojs(video, { autoplay: 'muted', liveui: true, html5: { vhs: { overrideNative: true } } });
    player.on('error', () => failed(player.error()?.message));
    player.src({ src: url, type: 'application/vnd.apple.mpegurl' });
    window.player = player;
  },
};

players[query.get('player')]().catch(failed);
