// Runs in the page: reads the time that is painted into the picture, and keeps what a judge needs to know of playback.
//
// The publisher paints the low 32 bits of its clock in milliseconds as black and white cells along the upper edge, the
// highest bit first. Publisher, server and browser are one machine, so the difference to `Date.now()` is how old the
// picture is, whatever lies in between and however often the publisher begins anew.

(() => {
  const CELLS = 32;
  const canvas = document.createElement('canvas');
  canvas.width = CELLS * 10;
  canvas.height = 1;
  const context = canvas.getContext('2d', { willReadFrequently: true });

  /** Milliseconds since the picture left its source; null while there is none. */
  function age(video) {
    if (video.videoWidth === 0 || video.readyState < 2) return null;
    const bar = video.videoHeight * (16 / 180);
    context.drawImage(video, 0, bar / 4, video.videoWidth, bar / 2, 0, 0, canvas.width, 1);
    const { data } = context.getImageData(0, 0, canvas.width, 1);
    let painted = 0;
    for (let cell = 0; cell < CELLS; cell += 1) {
      const light = data[(cell * 10 + 5) * 4];
      // Between black and white: no picture of ours, or one that is broken.
      if (light > 90 && light < 165) return null;
      painted = painted * 2 + (light > 127 ? 1 : 0);
    }
    const now = Date.now();
    return { painted, late_ms: (now - painted) | 0 };
  }

  const state = { samples: [], errors: window.playerErrors ?? [], unreadable: 0 };
  window.playerErrors = state.errors;
  let last = null;
  setInterval(() => {
    const video = document.querySelector('video');
    if (!video) return;
    const seen = age(video);
    if (!seen && video.videoWidth > 0) state.unreadable += 1;
    if (!seen || seen.painted === last) return;
    last = seen.painted;
    state.samples.push({ at: Date.now(), late_ms: seen.late_ms, time_s: video.currentTime, width: video.videoWidth });
  }, 50);
  window.sampled = () => state;
})();
