#!/usr/bin/env python3
"""Writes the seeds: small inputs that show each fuzz target what its subject looks like.

Everything is made here, by hand from the formats. Inputs that once crashed something are kept beside them as `found-*`.
"""

import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "seeds"


def seed(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


# AMF0 -----------------------------------------------------------------------------------------------------------------

def number(n):
    return b"\x00" + struct.pack(">d", n)


def name(text):
    return struct.pack(">H", len(text)) + text.encode()


def string(text):
    return b"\x02" + name(text)


def pairs(items):
    return b"".join(name(key) + value for key, value in items)


def obj(*items):
    return b"\x03" + pairs(items) + b"\x00\x00\x09"


def ecma(count, *items, end=b"\x00\x00\x09"):
    return b"\x08" + struct.pack(">I", count) + pairs(items) + end


def strict(*items, count=None):
    return b"\x0a" + struct.pack(">I", len(items) if count is None else count) + b"".join(items)


TRUE, NULL, UNDEFINED = b"\x01\x01", b"\x05", b"\x06"

connect_ffmpeg = string("connect") + number(1) + obj(
    ("app", string("live")), ("fourCcList", strict(string("hvc1"), string("av01"))), ("type", string("nonprivate")),
    ("flashVer", string("FMLE/3.0 (compatible; Lavf62)")), ("tcUrl", string("rtmp://127.0.0.1/live")))
connect_obs = string("connect") + number(1) + obj(
    ("app", string("live")), ("type", string("nonprivate")), ("flashVer", string("FMLE/3.0 (compatible; FMSc/1.0)")),
    ("swfUrl", string("rtmp://h/live")), ("tcUrl", string("rtmp://h/live")))
create_stream = string("createStream") + number(4) + NULL
publish = string("publish") + number(5) + NULL + string("foo?key=v") + string("live")
play = string("play") + number(4) + NULL + string("foo") + number(-2000)
meta_values = [("duration", number(0)), ("width", number(1280)), ("videocodecid", number(7)), ("stereo", TRUE),
               ("encoder", string("obs"))]
metadata = string("@setDataFrame") + string("onMetaData") + ecma(20, *meta_values)

seed("amf0", "connect-ffmpeg", connect_ffmpeg)
seed("amf0", "connect-obs", connect_obs)
seed("amf0", "metadata", metadata)
seed("amf0", "metadata-without-end", string("onMetaData") + ecma(2, *meta_values, end=b""))
seed("amf0", "every-marker", number(1) + TRUE + string("a") + obj(("a", NULL)) + NULL + UNDEFINED + ecma(1, ("a", NULL))
     + strict(NULL) + b"\x0b" + struct.pack(">dh", 1e12, -60) + b"\x0c\x00\x00\x00\x01a" + b"\x0d"
     + b"\x0f\x00\x00\x00\x04<a/>" + b"\x10" + name("C") + pairs([("a", NULL)]) + b"\x00\x00\x09" + b"\x11\x04\x05")
seed("amf0", "references", strict(NULL) + strict(b"\x07\x00\x00", b"\x07\x00\x00") + obj(("a", b"\x07\x00\x01")))
seed("amf0", "deep", b"\x0a\x00\x00\x00\x01" * 40 + NULL)
seed("amf0", "count-lies", strict(NULL, count=0xffffffff))
seed("amf0", "not-a-number", b"\x00\x7f\xf8\x00\x00\x00\x00\x00\x00")

# AMF3: the target switches to it before each part, and parts end at FE ----------------------------------------------

for label, parts in {
    "scalars": [b"\x00", b"\x01", b"\x02", b"\x03", b"\x04\x7f", b"\x04\x81\x80\x00", b"\x05" + struct.pack(">d", 1.5)],
    "strings": [b"\x06\x09live", b"\x06\x00", b"\x07\x09<a/>", b"\x0b\x09<b/>"],
    "date": [b"\x08\x01" + struct.pack(">d", 2), b"\x08\x00"],
    "arrays": [b"\x09\x05\x01\x01\x03", b"\x09\x03\x03a\x01\x01\x03", b"\x09\x00"],
    "objects": [b"\x0a\x1b\x03C\x03a\x01\x03b\x03\x01", b"\x0a\x01\x01\x02\x01", b"\x0a\x00", b"\x0a\x0b\x01\x03a\x01\x01"],
    "vectors": [b"\x0c\x07\x01\x02\x03", b"\x0d\x03\x00\x00\x00\x00\x01", b"\x0e\x03\x00\x00\x00\x00\x01",
                b"\x0f\x03\x00" + struct.pack(">d", 1), b"\x10\x03\x00\x03C\x06\x03x", b"\x11\x03\x00\x06\x03k\x01"],
    "doubling": [b"\x09\x03\x01\x01"] + [bytes([9, 5, 1, 9, n << 1, 9, n << 1]) for n in range(14)],
}.items():
    seed("amf3", label, b"\xfe".join(parts))

# Handshake: mode, four sizes of pieces, then bytes -----------------------------------------------------------------

for mode in range(16):
    seed("handshake", f"mode-{mode}", bytes([mode, 0, 1, 100, 255]) + b"\x00" * 8)
for first in (0, 6, 0x16, ord("G")):
    seed("handshake", f"first-byte-{first:02x}", bytes([0, 0, 0, 0, 0, first]) + b"ET / HTTP/1.1")
seed("handshake", "plain", bytes([0, 200, 3, 90, 7, 3]) + b"\x00" * 8 + bytes(range(256)) * 12)

# URLs: tcUrl, app, name ---------------------------------------------------------------------------------------------

for label, lines in {
    "ffmpeg": ("rtmp://h/live", "live", "foo?k=v"),
    "obs": ("rtmp://h/live/foo", "live/foo", ""),
    "obs-tracks": ("rtmp://h/x/y?key=val", "x/y?key=val", "?key=val"),
    "fmle": ("rtmp://1.2.3.4/live?vhost=x.com", "live?vhost=x.com", "foo"),
    "fmle-dots": ("rtmp://1.2.3.4/live", "live...vhost...x.com", "foo"),
    "cut-query": ("rtmp://h/live/foo?token=a", "live/foo?token=a", "b/c&d=e"),
    "instance": ("rtmp://h:1936/live/_definst_", "live/_definst_", "mp4:a/b.mp4"),
    "ipv6": ("rtmps://[2001:db8::1]:443/tv/hd", "tv/hd", "a//b/"),
    "quoted": ("'rtmp://H.EXAMPLE/live'", "live/", "..%2f%00"),
    "relative": ("//other:1937/app", "/app", "app"),
    "adobe": ("rtmp://u:p@h/live?authmod=adobe&user=u", "a/b?authmod=adobe", "c"),
}.items():
    seed("url", label, "\n".join(lines))

# PROXY --------------------------------------------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
v4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack(">HH", 56324, 1935)
v6 = bytes(range(32)) + struct.pack(">HH", 56324, 1935)
seed("proxy", "text-4", b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 1935\r\n\x03")
seed("proxy", "text-6", b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n\x03")
seed("proxy", "unknown", b"PROXY UNKNOWN x\r\n\x03")
seed("proxy", "binary-4", SIGNATURE + b"\x21\x11\x00\x0c" + v4 + b"\x03")
seed("proxy", "binary-6-records", SIGNATURE + b"\x21\x21\x00\x2b" + v6 + b"\x04\x00\x04abcd" + b"\x03")
seed("proxy", "local", SIGNATURE + b"\x20\x00\x00\x00\x03")

# Playlists left behind by nginx-rtmp ----------------------------------------------------------------------------------

seed("playlist", "plain", "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-TARGETDURATION:5\n"
     "#EXT-X-DISCONTINUITY\n#EXTINF:5.000,\nname-7.ts\n#EXTINF:4.960,\nname-8.ts\n")
seed("playlist", "keys", "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:9\n#EXT-X-PLAYLIST-TYPE: EVENT\n"
     "#EXT-X-KEY:METHOD=AES-128,URI=\"/k/0.key\",IV=0x0000000000000000000000000000000C\n"
     "#EXT-X-PROGRAM-DATE-TIME:2026-11-20T06:09:34.692+00:00\n#EXTINF:8.533,\nhttp://cdn/name/1450000.ts\n#EXT-X-ENDLIST\n")

# Streams for the TS segmenter: what, step, composition time, size; then so many bytes -----------------------------------

avc_record = b"\x01\x64\x00\x28\xff\xe1\x00\x05\x67\x64\x00\x28\xac\x01\x00\x04\x68\xee\x3c\x80"
hevc_record = b"\x01" * 21 + b"\x03\x01\xa1\x00\x01\x00\x03\x42\x01\x01"


def step(what, after, cts, data):
    return bytes([what, after, cts, len(data)]) + data


def units(*all):
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in all)


seed("ts_mux", "avc-aac", step(0, 0, 0, avc_record) + step(1, 0, 0, b"\x12\x10") + b"".join(
    step(4, 40, 4, units(b"\x09\xf0", b"\x67\x64\x00\x1f", b"\x06\x06\x01\xc4\x80", b"\x65\x88\x80")) + step(3, 23, 0, b"\x21\x10")
    + step(5, 40, 0xfc, units(b"\x41\x9a")) * 30 for _ in range(3)))
seed("ts_mux", "hevc", step(0x10, 0, 0, hevc_record) + step(0x14, 40, 0, units(b"\x26\x01\xaf")) + step(2, 0, 0, b""))
seed("ts_mux", "audio", step(0x21, 0, 0, b"") + step(0x23, 26, 0, b"\xff\xfb\x90\x64") * 80 + step(0xa3, 200, 0, b"\xff\xfb\x90\x64"))

# Chunks: mode (even: hostile, odd: ops of ten bytes), three sizes of pieces ------------------------------------------


def chunk(csid, kind, msid, payload, time=0, size=128):
    head = bytes([csid]) + time.to_bytes(3, "big") + len(payload).to_bytes(3, "big") + bytes([kind]) + struct.pack("<I", msid)
    parts = [payload[at:at + size] for at in range(0, len(payload), size)] or [b""]
    return head + bytes([0xc0 | csid]).join(parts)


session = (chunk(2, 1, 0, struct.pack(">I", 4096)) + chunk(3, 20, 0, connect_ffmpeg, size=4096)
           + chunk(3, 20, 0, create_stream) + chunk(8, 20, 1, publish) + chunk(4, 18, 1, metadata)
           + chunk(6, 9, 1, b"\x17\x00\x00\x00\x00\x01\x64\x00\x28\xff") + chunk(4, 8, 1, b"\xaf\x00\x12\x08")
           + chunk(6, 9, 1, b"\x17\x01\x00\x00\x50" + b"\x00\x00\x00\x02\x65\x88", 40) + chunk(4, 8, 1, b"\xaf\x01\x21", 43))
pieces = bytes([255, 3, 0])
seed("chunk", "session", b"\0" + pieces + session)
seed("chunk", "ping-type-1", b"\0" + pieces + bytes.fromhex("42000000000006040006000000ff"))
seed("chunk", "extended", b"\0" + pieces + bytes.fromhex("04ffffff0000a00901000000 01000000".replace(" ", ""))
     + b"a" * 128 + bytes.fromhex("c401000000") + b"b" * 32)
seed("chunk", "long-csids", b"\0" + pieces + b"\x00\x00" + bytes(10) + b"\x01\x00\x01" + bytes(10) + b"\x01\xff\xff" + bytes(10))
seed("chunk", "type-3-anew", b"\0" + pieces + bytes.fromhex("0400001a000002080100000041 42".replace(" ", "")) + b"\xc4CD\xc4EF")
seed("chunk", "round-trip", bytes([0x83]) + pieces + bytes(range(60)) + b"\xff" * 20)

# Message bodies: medium, then the body ------------------------------------------------------------------------------

for label, body in {
    "avc-config": "17000000000164002aff", "avc-key": "1701000050 00000002 6588", "avc-inter": "2701000000",
    "hevc-legacy": "1c00000000 01", "hevc-legacy-key": "1c01000050 00000002 2601",
    "hevc-config": "90 68766331 01010160000000 90", "hevc-key": "91 68766331 000050 00", "hevc-inter": "a1 68766331 0000a0 00",
    "hevc-x": "a3 68766331 00", "hevc-colour": "d4 68766331 02 0009 636f6c6f72496e666f",
    "avc-track": "96 00 61766331 01 0164002aff", "avc-track-key": "96 01 61766331 01 000050 00",
    "avc-fourcc": "90 61766331 0164002aff", "mod-ex": "97 02 000003e8 01 61766331 000000 00", "av1-end": "92 61763031",
    "seek": "5700",
}.items():
    seed("sample", "video-" + label, b"\x01" + bytes.fromhex(body.replace(" ", "")))
    seed("flv_tag", "video-" + label, b"\x01" + bytes.fromhex(body.replace(" ", "")))
for label, body in {
    "aac-config": "af00 1208", "aac": "af01 2110", "mp3": "2f fffb", "opus-config": "90 4f707573 4f707573486561640102",
    "opus": "91 4f707573 f89e", "opus-channels": "94 4f707573 01 01 00000004", "aac-fourcc": "91 6d703461 21",
    "aac-track": "95 00 6d703461 01 1208", "aac-track-frame": "95 01 6d703461 01 21",
    "tracks": "95 21 6d703461 00 000001 21 01 000001 22",
}.items():
    seed("sample", "audio-" + label, b"\x00" + bytes.fromhex(body.replace(" ", "")))
    seed("flv_tag", "audio-" + label, b"\x00" + bytes.fromhex(body.replace(" ", "")))

# FLV files: three sizes of pieces, then the file ---------------------------------------------------------------------------

def flv_tag(kind, time, body, size=None):
    size = len(body) if size is None else size
    times = (time & 0xffffff).to_bytes(3, "big") + bytes([time >> 24])
    return bytes([kind]) + size.to_bytes(3, "big") + times + bytes(3) + body + struct.pack(">I", len(body) + 11)


flv_head = b"\x09\x40\xff" + b"FLV\x01\x05" + struct.pack(">II", 9, 0)
flv_media = (flv_tag(18, 0, string("onMetaData") + ecma(20, *meta_values)) + flv_tag(9, 0, bytes.fromhex("17000000000164002aff"))
             + flv_tag(8, 0, bytes.fromhex("af001208")) + flv_tag(9, 0x01000028, bytes.fromhex("17010000500000000265 88")))
seed("flv_reader", "live", flv_head + flv_media + flv_tag(8, 0x01000030, bytes.fromhex("af012110")))
seed("flv_reader", "data", flv_head + flv_tag(18, 0, metadata) + flv_tag(18, 0, string("onTextData") + obj()) + flv_tag(18, 0, b"\2"))
seed("flv_reader", "unknown", flv_head + flv_tag(15, 0, b"?" * 300) + flv_tag(8, 0, b"") + flv_media)
seed("flv_reader", "encrypted", flv_head + flv_media + flv_tag(0x29, 0, b"x"))
seed("flv_reader", "too-long", flv_head + flv_tag(9, 0, b"x", size=0xffffff))
seed("flv_reader", "longer-header", b"\0\1\2FLV\x01\x01" + struct.pack(">I", 12) + b"???" + bytes(4) + flv_media)
seed("flv_reader", "page", b"\5\5\5<html>")

# Answers over HTTP: three sizes of pieces, then the answer ---------------------------------------------------------------------

http_chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
for label, answer in {
    "chunks": http_chunked + "3;a=b\r\nFLV\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", "bad-chunk": http_chunked + "-1\r\n",
    "length": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nFLV", "to-the-end": "HTTP/1.0 200\nServer: x\n\nFLV",
    "continue": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "moved": "HTTP/1.1 302 Found\r\nLocation: http://h/live/a.flv\r\nContent-Length: 0\r\n\r\n", "rtmp": "\3rtmp",
    "gzip": "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
}.items():
    seed("http_answer", label, b"\2\7\x40" + answer.encode())

# Timeline: ops of six bytes: what, how, value, wait -------------------------------------------------------------------


def ops(*items):
    return b"".join(bytes([what, how]) + value.to_bytes(3, "big") + bytes([wait]) for what, how, value, wait in items)


steady = [(3, 6, 0, 0)] + [(7, 6, 40, 18), (0, 6, 23, 13)] * 6
seed("timeline", "steady", ops(*steady))
seed("timeline", "wrap-31", ops((3, 3, 0, 0), *[(7, 6, 40, 18)] * 8, (7, 5, 0, 18), *steady))
seed("timeline", "wrap-32", ops((3, 4, 0, 0), *[(7, 6, 40, 18), (0, 6, 23, 13)] * 8))
seed("timeline", "jump-and-back", ops(*steady, (7, 0, 3_600_000, 18), (0, 0, 0, 1), *steady, (7, 1, 3_600_000, 18), *steady))
seed("timeline", "sessions", ops(*steady, (0xf3, 2, 5, 200), *steady, (0xf0, 2, 0, 9), *steady))
seed("timeline", "stands-still", ops((3, 2, 0, 0), *[(7, 6, 0, 18)] * 20))
seed("timeline", "headers", ops((5, 2, 0, 0), (2, 2, 0, 0), (3, 2, 60_000, 1), (6, 6, 0, 0), *steady, (5, 2, 0, 0)))

# Names: app, and two names -----------------------------------------------------------------------------------------

for label, lines in {
    "plain": ("live", "foo", "bar"), "folders": ("live", "a/b-c", "a-b/c"), "escaped": ("live", "%61%2Db", "a%2Fb"),
    "climbing": ("live", "../x", "a/../../b"), "prefix": ("vod", "mp4:a/b.mp4", "flv:a"), "empty": ("live", "", "%"),
    "long": ("live", "n" * 120 + "/" + "m" * 120, "n" * 120 + "/" + "m" * 119),
}.items():
    seed("key", label, "\n".join(lines))

# Configuration ------------------------------------------------------------------------------------------------------

seed("config", "full", """\
# comment
worker_processes auto;
error_log stderr info;
rtmp {
    log_format mine '$remote_addr [$time_local] "$name"';
    server {
        listen 1935 backlog=511;
        listen [::]:1936 ipv6only=on;
        chunk_size 4096;
        access_log logs/access.log mine;
        application live {
            live on;
            allow publish 127.0.0.1;
            deny publish all;
            gop_cache on;
            push rtmp://192.0.2.1/live/x;
            exec ffmpeg -i rtmp://localhost/live/$name -c copy "a b";
        }
        application vod { play /tmp; }
    }
}
http { server { listen 80; location / { root html; types { a/b c; } } } }
""")
seed("config", "words", "a 'b c' \"d\\\"e\" ${f} g\\ h #i\n;b{}c d{e;}")
seed("config", "open", "rtmp { server { listen 1935")
seed("config", "quote", "user 'a;\n")

# Sessions: mode, three sizes of pieces, then chunks as the peer would send them after the handshake --------------------

seed("session", "publish", b"\0" + pieces + session)
seed("session", "play", b"\0" + pieces + chunk(3, 20, 0, connect_obs) + chunk(3, 20, 0, create_stream) + chunk(8, 20, 1, play)
     + chunk(2, 4, 0, b"\x00\x03\x00\x00\x00\x01\x00\x00\x0b\xb8"))
seed("session", "raw", b"\1" + pieces + b"\x03" + bytes(1536) + bytes(1536) + session)
seed("session", "amf3", b"\0" + pieces + chunk(3, 17, 0, b"\0" + connect_obs) + chunk(3, 17, 0, b"\0" + create_stream))
seed("session", "ops-publish", bytes([16]) + pieces + bytes([0, 4, 0, 1, 8, 0, 3, 13, 0, 19, 1, 1, 18, 1, 0, 17, 1, 1, 21, 1, 3, 9, 1, 0,
                                                                8, 0, 1]))
seed("session", "ops-play", bytes([16]) + pieces + bytes([0, 4, 0, 1, 8, 0, 5, 13, 0, 22, 1, 9, 11, 1, 1, 12, 1, 5, 13, 1, 0, 7, 1, 0, 8, 0, 1]))
seed("session", "ops-refused", bytes([16 | 4 | 8]) + pieces + bytes([0, 4, 0, 1, 8, 0, 1, 8, 0, 3, 13, 0, 5, 14, 0]))

result = string("_result") + number(1) + obj(("fmsVer", string("FMS/3,0,1,123"))) + obj(
    ("level", string("status")), ("code", string("NetConnection.Connect.Success")))


def created(transaction):
    return string("_result") + number(transaction) + NULL + number(1)


def started(what):
    return string("onStatus") + number(0) + NULL + obj(("level", string("status")), ("code", string(f"NetStream.{what}.Start")))


reconnect = string("onStatus") + number(0) + NULL + obj(
    ("level", string("status")), ("code", string("NetConnection.Connect.ReconnectRequest")), ("tcUrl", string("//h/app")))
server = (chunk(2, 5, 0, struct.pack(">I", 2_500_000)) + chunk(2, 6, 0, struct.pack(">IB", 2_500_000, 2))
          + chunk(2, 1, 0, struct.pack(">I", 4096)) + chunk(3, 20, 0, result, size=4096))
for mode, transaction, what in [(0, 4, "Publish"), (2, 2, "Play")]:
    begin = bytes([mode]) + pieces + server + chunk(3, 20, 0, created(transaction), size=4096)
    begin += chunk(5, 20, 1, started(what), size=4096)
    media = chunk(4, 8, 1, b"\xaf\x01\x21", 40) + chunk(6, 9, 1, b"\x17\x01\x00\x00\x00\x01", 40)
    data = chunk(4, 18, 1, string("onMetaData") + ecma(20, *meta_values), size=4096)
    seed("client_session", f"{what.lower()}-answers", begin + chunk(3, 20, 0, reconnect, size=4096)
         + chunk(2, 4, 0, b"\x00\x06\x00\x00\x00\x07") + data + media + chunk(2, 4, 0, b"\x00\x01\x00\x00\x00\x01"))
seed("client_session", "raw", bytes([1]) + pieces + b"\x03" + bytes(2 * 1536) + server)

# Playlist queries: the life of a window in two bytes, the query, a name -------------------------------------------------

for life in [0x00, 0x31, 0x39, 0x32, 0x35]:
    for name_, query in [("next", "_HLS_msn=3&_HLS_part=2&_HLS_skip=YES"), ("plain", "token=a"), ("far", "_HLS_msn=18446744073709551616"),
                         ("part-only", "_HLS_part=0"), ("negative", "_HLS_msn=-1")]:
        seed("playlist_query", f"{name_}-{life:02x}", bytes([life, 2]) + query.encode() + b"\ns-p14.ts")
