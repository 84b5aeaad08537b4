// Reads the boxes of a fragmented MP4 stream: where each ends, what its tracks are, and when its fragments play.

/** Cuts a byte stream into top-level boxes, however it arrives. */
export class BoxCutter {
  #rest = new Uint8Array(0);

  /** Takes the next bytes and gives the boxes that are complete with them, as [{type, bytes}]. */
  push(chunk) {
    let data = chunk;
    if (this.#rest.length > 0) {
      data = new Uint8Array(this.#rest.length + chunk.length);
      data.set(this.#rest);
      data.set(chunk, this.#rest.length);
    }
    const boxes = [];
    let at = 0;
    while (data.length - at >= 8) {
      const size = boxSize(data, at);
      if (size === null) break;
      if (size < 8 || size > MAX_BOX_BYTES) throw new Error(`a box of ${size} bytes`);
      if (data.length - at < size) break;
      boxes.push({ type: fourCc(data, at + 4), bytes: data.subarray(at, at + size) });
      at += size;
    }
    this.#rest = data.slice(at);
    return boxes;
  }
}

/** The tracks that a `moov` tells of, as [{id, kind: 'video' | 'audio', timescale, codec, handler}]; `codec` as RFC 6381 has it. */
export function readTracks(moov) {
  const tracks = [];
  for (const trak of children(moov, 8).filter((box) => box.type === 'trak')) {
    const mdia = find(trak.bytes, 8, 'mdia');
    const tkhd = find(trak.bytes, 8, 'tkhd');
    if (!mdia || !tkhd) continue;
    const mdhd = find(mdia, 8, 'mdhd');
    const hdlr = find(mdia, 8, 'hdlr');
    const stsd = ['minf', 'stbl', 'stsd'].reduce((box, type) => box && find(box, 8, type), mdia);
    if (!mdhd || !hdlr || !stsd) continue;
    const entry = children(stsd, 16)[0];
    const kind = { vide: 'video', soun: 'audio' }[fourCc(hdlr, 16)];
    if (!kind || !entry) continue;
    tracks.push({
      id: u32(tkhd, tkhd[8] === 1 ? 28 : 20),
      kind,
      timescale: u32(mdhd, mdhd[8] === 1 ? 28 : 20) || 1,
      codec: codecOf(entry, kind),
      handler: hdlr.subarray(16, 20),
    });
  }
  return tracks;
}

/** Makes a track one of metadata, in the `moov` that it was read from. */
export function hide(track) {
  track.handler.set([0x6d, 0x65, 0x74, 0x61]); // meta
}

/** When a `moof` begins, in seconds; null where it does not say. */
export function fragmentStart(moof, tracks) {
  let start = null;
  for (const traf of children(moof, 8).filter((box) => box.type === 'traf')) {
    const tfhd = find(traf.bytes, 8, 'tfhd');
    const tfdt = find(traf.bytes, 8, 'tfdt');
    const track = tfhd && tracks.find((known) => known.id === u32(tfhd, 12));
    if (!track || !tfdt) continue;
    const ticks = tfdt[8] === 1 ? u64(tfdt, 12) : u32(tfdt, 12);
    const seconds = ticks / track.timescale;
    start = start === null ? seconds : Math.min(start, seconds);
  }
  return start;
}

/** What a `prft` says: this media time was produced at that wall clock time ({media_s, wall_ms}). */
export function producerTime(prft, tracks) {
  const track = tracks.find((known) => known.id === u32(prft, 12));
  if (!track || prft.length < 28) return null;
  const ticks = prft[8] === 1 ? u64(prft, 24) : u32(prft, 24);
  const ntp_s = u32(prft, 16) + u32(prft, 20) / 2 ** 32;
  return { media_s: ticks / track.timescale, wall_ms: (ntp_s - NTP_TO_UNIX_S) * 1000 };
}

function codecOf(entry, kind) {
  const box = entry.bytes;
  // What stands before the boxes of a sample entry: 78 bytes for a picture, 28 for sound.
  const inner = (type) => find(box, 8 + (kind === 'video' ? 78 : 28), type);
  switch (entry.type) {
    case 'avc1':
    case 'avc3': {
      const avcc = inner('avcC');
      return avcc ? `${entry.type}.${hex(avcc[9])}${hex(avcc[10])}${hex(avcc[11])}` : entry.type;
    }
    case 'hvc1':
    case 'hev1': {
      const hvcc = inner('hvcC');
      return hvcc ? `${entry.type}.${hevcParts(hvcc)}` : entry.type;
    }
    case 'av01': {
      const av1c = inner('av1C');
      if (!av1c) return 'av01.0.04M.08';
      const high = (av1c[10] & 0x40) !== 0;
      const depth = high ? ((av1c[10] & 0x20) !== 0 ? 12 : 10) : 8;
      const tier = (av1c[10] & 0x80) !== 0 ? 'H' : 'M';
      return `av01.${av1c[9] >> 5}.${two(av1c[9] & 31)}${tier}.${two(depth)}`;
    }
    case 'vp09': {
      const vpcc = inner('vpcC');
      return vpcc ? `vp09.${two(vpcc[12])}.${two(vpcc[13])}.${two(vpcc[14] >> 4)}` : 'vp09.00.31.08';
    }
    case 'mp4a':
      return aacOrMp3(inner('esds'));
    case 'Opus':
      return 'opus';
    case 'fLaC':
      return 'flac';
    case '.mp3':
      return 'mp3';
    default:
      return entry.type;
  }
}

function hevcParts(hvcc) {
  const space = ['', 'A', 'B', 'C'][hvcc[9] >> 6];
  const tier = (hvcc[9] & 0x20) !== 0 ? 'H' : 'L';
  let flags = 0;
  for (let bit = 0; bit < 32; bit += 1) {
    if ((u32(hvcc, 10) >>> bit) & 1) flags |= 1 << (31 - bit);
  }
  const constraints = Array.from(hvcc.subarray(14, 20));
  while (constraints.length > 0 && constraints.at(-1) === 0) constraints.pop();
  const parts = [`${space}${hvcc[9] & 31}`, (flags >>> 0).toString(16), `${tier}${hvcc[20]}`];
  return parts.concat(constraints.map((byte) => byte.toString(16).toUpperCase())).join('.');
}

function aacOrMp3(esds) {
  if (!esds) return 'mp4a.40.2';
  let at = 12;
  const header = () => {
    const tag = esds[at];
    at += 1;
    while ((esds[at] & 0x80) !== 0) at += 1;
    at += 1;
    return tag;
  };
  if (header() !== 3) return 'mp4a.40.2';
  const flags = esds[at + 2];
  at += 3 + ((flags & 0x80) !== 0 ? 2 : 0) + ((flags & 0x20) !== 0 ? 2 : 0);
  if ((flags & 0x40) !== 0) at += 1 + esds[at];
  if (header() !== 4) return 'mp4a.40.2';
  const object = esds[at];
  if (object !== 0x40) return `mp4a.${hex(object).toUpperCase()}`;
  at += 13;
  if (header() !== 5) return 'mp4a.40.2';
  let type = esds[at] >> 3;
  if (type === 31) type = 32 + (((esds[at] & 7) << 3) | (esds[at + 1] >> 5));
  return `mp4a.40.${type || 2}`;
}

function children(box, from) {
  const found = [];
  for (let at = from; at + 8 <= box.length; ) {
    const size = boxSize(box, at);
    if (size === null || size < 8 || at + size > box.length) break;
    found.push({ type: fourCc(box, at + 4), bytes: box.subarray(at, at + size) });
    at += size;
  }
  return found;
}

function find(box, from, type) {
  return children(box, from).find((child) => child.type === type)?.bytes;
}

/** null: more bytes are needed to know. */
function boxSize(data, at) {
  const size = u32(data, at);
  if (size !== 1) return size;
  return data.length - at < 16 ? null : u64(data, at + 8);
}

const fourCc = (data, at) => String.fromCharCode(data[at], data[at + 1], data[at + 2], data[at + 3]);
const u32 = (data, at) => ((data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3]) >>> 0;
const u64 = (data, at) => u32(data, at) * 2 ** 32 + u32(data, at + 4);
const hex = (byte) => byte.toString(16).padStart(2, '0');
const two = (number) => String(number).padStart(2, '0');

// A fragment is a frame or a few; nothing sane comes near this.
const MAX_BOX_BYTES = 64 * 1024 * 1024;
const NTP_TO_UNIX_S = 2_208_988_800;
