#!/usr/bin/env bash
# Holds livemill against nginx in what is watched over HTTP, on this machine: muxing to HLS, and serving playlists and segments.
#
# HTTP-FLV has no counterpart in Debian's nginx: its rows stand beside livemill's own RTMP players. The servers take turns within a
# scenario. Absolute figures differ from machine to machine and from minute to minute: judge by the ratios within a pass.
set -euo pipefail

usage() {
    cat <<'END'
usage: benches/http.sh [OPTIONS]
  --passes N          how often everything is run (2)
  --duration SECONDS  length of each measurement (10)
  --scenarios LIST    of: mux serve flv ("mux serve flv")
  --streams LIST      publishers of the mux scenario ("20 100")
  --players LIST      players of the flv scenario ("500 1000")
  --no-pin            do not pin the server to core 0 and the tool to core 1
  --no-build          take target/release/livemill as it is
END
}

passes=2 duration=10 scenarios="mux serve flv" streams="20 100" players="500 1000" pin=yes build=yes
while [ $# -gt 0 ]; do
    case $1 in
        --passes) passes=$2; shift 2 ;;
        --duration) duration=$2; shift 2 ;;
        --scenarios) scenarios=$2; shift 2 ;;
        --streams) streams=$2; shift 2 ;;
        --players) players=$2; shift 2 ;;
        --no-pin) pin=no; shift ;;
        --no-build) build=no; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
[ $build = no ] || cargo build --release
livemill=$(realpath "${LIVEMILL:-${CARGO_TARGET_DIR:-target}/release/livemill}")
for tool in nginx wrk curl; do
    command -v $tool >/dev/null || { echo "$tool is missing (Debian: nginx-light libnginx-mod-rtmp wrk curl)" >&2; exit 2; }
done
module=/usr/lib/nginx/modules/ngx_rtmp_module.so
load_module=
[ ! -e $module ] || load_module="load_module $module;"

# Segments are written to memory: what a disk costs is the same for both.
dir=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
chmod 755 "$dir"
server_pid= tool_pid=
clean_up() {
    [ -z "$tool_pid" ] || kill "$tool_pid" 2>/dev/null || true
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    rm -rf "$dir"
}
trap clean_up EXIT
ulimit -n "$(ulimit -Hn)"
first=() second=()
if [ $pin = yes ] && command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    first=(taskset -c 0) second=(taskset -c 1)
fi

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
    local port=$((20000 + RANDOM % 10000))
    while is_open $port; do port=$((port + 1)); done
    echo $port
}

# start ROW NAME: starts the server with $dir/NAME.conf and waits for the port $rtmp (or $http).
start() {
    case $1 in
        nginx) "${first[@]}" nginx -p "$dir" -c "$dir/$2.conf" 2>>"$dir/$2.log" & ;;
        *) "${first[@]}" "$livemill" -c "$dir/$2.conf" >>"$dir/$2.log" 2>&1 & ;;
    esac
    server_pid=$!
    local tries=0
    until is_open "$3"; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            echo "$1 does not start:" >&2
            cat "$dir/$2.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}
stop() {
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
stop_tool() {
    [ -z "$tool_pid" ] || { kill "$tool_pid" 2>/dev/null || true; wait "$tool_pid" 2>/dev/null || true; }
    tool_pid=
}

# The server and its workers.
family() { echo "$server_pid" $(cat "/proc/$server_pid/task/"*/children 2>/dev/null); }
# CPU of the server so far, in ticks of the clock.
cpu() {
    local pid sum=0
    for pid in $(family); do
        set -- $(sed 's/.*) //' "/proc/$pid/stat")
        sum=$((sum + ${12} + ${13}))
    done
    echo $sum
}
rss() {
    local pid sum=0
    for pid in $(family); do sum=$((sum + $(awk '/^VmRSS/ {print $2}' "/proc/$pid/status"))); done
    echo $sum
}
ticks=$(getconf CLK_TCK)

config() {
    local row=$1 inside=$2 http=$3
    [ "$row" = nginx ] && echo "$load_module"
    cat <<END
user root;
worker_processes 1;
daemon off;
error_log $dir/$row.log warn;
pid $dir/$row.pid;
worker_rlimit_nofile $(ulimit -n);
events { worker_connections 8192; }
rtmp { access_log off; server { listen 127.0.0.1:$rtmp; chunk_size 4096; application live { live on; $inside } } }
$http
END
}

mux() {
    local count=$1 pass=$2 row before after
    for row in nginx livemill; do
        rtmp=$(free_port)
        mkdir -p "$dir/$row-hls"
        config $row "hls on; hls_path $dir/$row-hls; hls_fragment 2s; hls_playlist_length 12s;" "" >"$dir/$row.conf"
        start $row $row "$rtmp"
        "${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$rtmp/live/bench" --publishers "$count" --players 0 \
            --warmup 4 --duration "$((duration + 6))" --json >/dev/null 2>"$dir/tool.log" &
        tool_pid=$!
        sleep 6 # the publishers come, and the first segments are written
        before=$(cpu)
        sleep "$duration"
        after=$(cpu)
        echo "mux-$count $row $pass $(awk "BEGIN {print ($after - $before) / $ticks * 1e6 / $duration / $count}") $(($(rss) / count)) $(find "$dir/$row-hls" -name '*.ts' | wc -l)" >>"$dir/results"
        stop_tool
        stop
        rm -rf "$dir/$row-hls"
    done
}

# serve_one WHAT ROW PASS URL
serve_one() {
    local before after served
    before=$(cpu)
    served=$("${second[@]}" wrk -t 1 -c 50 -d "${duration}s" "$4" | tee "$dir/wrk.log" | awk '/requests in/ {print $1}')
    after=$(cpu)
    if grep -q "Non-2xx" "$dir/wrk.log"; then cat "$dir/wrk.log" >&2; fi
    echo "$1 $2 $3 $(awk "BEGIN {print $served / (($after - $before) / $ticks)}") $served $(curl -s "$4" | wc -c)" >>"$dir/results"
}

serve() {
    local pass=$1 base playlist segment part
    rtmp=$(free_port) http=$(free_port)
    # Everything in memory: what livemill does where no path is written.
    config livemill "" "http { access_log off; server { listen 127.0.0.1:$http; location / { player on; } } }" >"$dir/livemill.conf"
    start livemill livemill "$rtmp"
    "${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$rtmp/live/bench" --publishers 1 --players 0 --warmup 1 \
        --duration "$((duration * 3 + 30))" --json >/dev/null 2>"$dir/tool.log" &
    tool_pid=$!
    base=http://127.0.0.1:$http/live/bench
    local tries=0
    until playlist=$(curl -sf "$base/index.m3u8" | grep -v '^#\|^$' | head -1) && [ -n "$playlist" ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "no playlist:" >&2; cat "$dir/livemill.log" "$dir/tool.log" >&2; exit 1; }
        sleep 0.2
    done
    until segment=$(curl -sf "$base/$playlist" | grep -v '^#\|^$' | tail -1) && [ -n "$segment" ]; do sleep 0.5; done
    part=$(curl -sf "$base/$playlist" | sed -n 's/.*EXT-X-PART:.*URI="\([^"]*\)".*/\1/p' | tail -1)
    mkdir -p "$dir/www"
    curl -sf "$base/$playlist" -o "$dir/www/playlist.m3u8"
    curl -sf "$base/$segment" -o "$dir/www/segment.m4s"
    curl -sf "$base/$part" -o "$dir/www/part.m4s"
    serve_one playlist livemill "$pass" "$base/$playlist"
    segment=$(curl -sf "$base/$playlist" | grep -v '^#\|^$' | tail -1)
    serve_one segment livemill "$pass" "$base/$segment"
    part=$(curl -sf "$base/$playlist" | sed -n 's/.*EXT-X-PART:.*URI="\([^"]*\)".*/\1/p' | tail -1)
    serve_one part livemill "$pass" "$base/$part"
    stop_tool
    stop
    cat >"$dir/nginx.conf" <<END
user root;
worker_processes 1;
daemon off;
error_log $dir/nginx.log warn;
pid $dir/nginx.pid;
events { worker_connections 8192; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; server { listen 127.0.0.1:$http; root $dir/www; } }
END
    start nginx nginx "$http"
    serve_one playlist nginx "$pass" "http://127.0.0.1:$http/playlist.m3u8"
    serve_one segment nginx "$pass" "http://127.0.0.1:$http/segment.m4s"
    serve_one part nginx "$pass" "http://127.0.0.1:$http/part.m4s"
    stop
}

flv() {
    local count=$1 pass=$2 row json url
    for row in rtmp flv; do
        rtmp=$(free_port) http=$(free_port)
        config livemill "" "http { access_log off; server { listen 127.0.0.1:$http; location / { player on; } } }" >"$dir/livemill.conf"
        start livemill livemill "$rtmp"
        url=rtmp://127.0.0.1:$rtmp/live/bench
        [ $row = rtmp ] || set -- "$1" "$2" --play "http://127.0.0.1:$http/live/bench.flv"
        json=$("${second[@]}" "$livemill" bench "$url" --players "$count" "${@:3}" --duration "$duration" --server-pid "$server_pid" --json)
        echo "flv-$count $row $pass $(field "$json" server_cpu_us_per_player_s) $(field "$json" video_latency_ms_p99) $(field "$json" frames_lost)/$(field "$json" players_cut_off) $(field "$json" server_rss_kib_per_connection)" >>"$dir/results"
        stop
    done
}
field() { grep -o "\"$2\":[^,}]*" <<<"$1" | cut -d: -f2; }

: >"$dir/results"
for pass in $(seq "$passes"); do
    for scenario in $scenarios; do
        echo "pass $pass, $scenario" >&2
        case $scenario in
            mux) for count in $streams; do mux "$count" "$pass"; done ;;
            serve) serve "$pass" ;;
            flv) for count in $players; do flv "$count" "$pass"; done ;;
            *) echo "there is no scenario $scenario" >&2; exit 2 ;;
        esac
    done
done
echo "mux: CPU µs/(stream·s), KiB of memory/stream, segments on disk"
echo "playlist, segment, part: requests per CPU second, requests, bytes of one"
echo "flv: CPU µs/(player·s), p99 of video ms, lost/cut off, KiB/player"
sort -s -k1,1 -k3,3 "$dir/results" | column -t
