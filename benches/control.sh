#!/usr/bin/env bash
# What it costs to look: how long statistics, metrics and lists take under load, and whether frames come later meanwhile.
#
# Each row starts the server afresh, and rows take turns within a pass. The bar: 99 of 100 whole answers within 50 ms, and the
# latency of frames where it is without anybody who looks. Judge the latter within a pass: machines differ from minute to minute.
set -euo pipefail

usage() {
    cat <<'END'
usage: benches/control.sh [OPTIONS]
  --passes N          how often everything is run (2)
  --duration SECONDS  length of each measurement (20)
  --publishers N      streams (200)
  --players N         players, dealt to the streams (2000)
  --bitrate KBIT      of each stream (100)
  --fps N             of each stream (10)
  --every MS          from one request for an address to the next (250)
  --rows LIST         who looks: nobody, everybody (all four at once), stat, metrics, clients, streams
                      ("nobody everybody stat metrics clients streams")
  --no-pin            do not pin the server to core 0 and the tool to core 1
  --no-build          take target/release/livemill as it is
  --keep DIR          leave configuration, logs and each run's JSON there
END
}

passes=2 duration=20 publishers=200 players=2000 bitrate=100 fps=10 every=250 pin=yes build=yes keep=
rows="nobody everybody stat metrics clients streams"
while [ $# -gt 0 ]; do
    case $1 in
        --passes) passes=$2; shift 2 ;;
        --duration) duration=$2; shift 2 ;;
        --publishers) publishers=$2; shift 2 ;;
        --players) players=$2; shift 2 ;;
        --bitrate) bitrate=$2; shift 2 ;;
        --fps) fps=$2; shift 2 ;;
        --every) every=$2; shift 2 ;;
        --rows) rows=$2; shift 2 ;;
        --no-pin) pin=no; shift ;;
        --no-build) build=no; shift ;;
        --keep) keep=$2; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
[ $build = no ] || cargo build --release
livemill=$(realpath "${LIVEMILL:-${CARGO_TARGET_DIR:-target}/release/livemill}")

if [ -n "$keep" ]; then
    mkdir -p "$keep"
    dir=$(realpath "$keep")
else
    dir=$(mktemp -d)
fi
server_pid=
stop() {
    [ -z "$server_pid" ] || { kill "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; }
    server_pid=
}
clean_up() {
    stop
    [ -z "${group_before:-}" ] || echo "$group_before" >/proc/self/autogroup || true
    [ -n "$keep" ] || rm -rf "$dir"
}
trap clean_up EXIT
ulimit -n "$(ulimit -Hn)"
first=() second=()
if [ $pin = yes ] && command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    first=(taskset -c 0) second=(taskset -c 1)
fi
# Other work on the machine disturbs less so, where it is allowed: of this session against others, and within it.
group_before=
if [ -w /proc/self/autogroup ] && [ "$(id -u)" = 0 ]; then
    group_before=$(sed 's/.*nice //' /proc/self/autogroup)
    echo -15 >/proc/self/autogroup || group_before=
fi

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
    local port=$((20000 + RANDOM % 10000))
    while is_open $port; do port=$((port + 1)); done
    echo $port
}

# Of this run only; nobody else has to know it.
token=$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')
export LIVEMILL_API_TOKEN=$token

# start: a server on the ports $rtmp, $http and $api.
start() {
    cat >"$dir/nginx.conf" <<END
daemon off;
error_log $dir/server.log warn;
pid $dir/server.pid;
worker_rlimit_nofile $(ulimit -n);
api_listen 127.0.0.1:$api;
api_socket $dir/control.sock;
events { worker_connections 8192; }
rtmp {
    access_log off;
    server { listen 127.0.0.1:$rtmp; chunk_size 4096; application live { live on; } }
}
http { access_log off; server { listen 127.0.0.1:$http; location /stat { rtmp_stat all; } } }
END
    STATE_DIRECTORY=$dir "${first[@]}" "$livemill" -c "$dir/nginx.conf" >>"$dir/server.log" 2>&1 &
    server_pid=$!
    local tries=0
    until is_open "$rtmp" && is_open "$http" && is_open "$api"; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            echo "the server does not start:" >&2
            cat "$dir/server.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

field() { grep -o "\"$2\":[^,}]*" <<<"$1" | cut -d: -f2-; }

# run ROW PASS
run() {
    local row=$1 pass=$2 json name polls=()
    rtmp=$(free_port) http=$(free_port) api=$(free_port)
    declare -A places=(
        [stat]=http://127.0.0.1:$http/stat
        [metrics]=http://127.0.0.1:$api/metrics
        [clients]="http://127.0.0.1:$api/api/v1/clients?limit=1000&sort=slowest"
        [streams]="http://127.0.0.1:$api/api/v1/streams?limit=1000"
    )
    case $row in
        nobody) names=() ;;
        everybody) names=(stat metrics clients streams) ;;
        stat | metrics | clients | streams) names=("$row") ;;
        *) echo "there is no row $row" >&2; exit 2 ;;
    esac
    for name in "${names[@]}"; do polls+=(--poll "${places[$name]}"); done
    start
    json=$("${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$rtmp/live/bench" --publishers "$publishers" \
        --players "$players" --bitrate "$bitrate" --fps "$fps" --audio off --duration "$duration" \
        "${polls[@]}" --poll-every "$every" --poll-token "$token" --server-pid "$server_pid" --json)
    stop
    [ -z "$keep" ] || echo "$json" >"$dir/$row-$pass.json"
    echo "$pass $row $(field "$json" video_latency_ms_p50) $(field "$json" video_latency_ms_p99) $(field "$json" video_latency_ms_p999) $(field "$json" frames_lost)/$(field "$json" players_cut_off) $(field "$json" players_ready) $(field "$json" server_cpu_share) $(field "$json" tool_cpu_share)" >>"$dir/frames"
    [ ${#names[@]} = 0 ] || paste -d ' ' <(printf "$pass $row %s\n" "${names[@]}") <(field "$json" poll_answers) \
        <(field "$json" poll_failures) <(field "$json" poll_bytes) <(field "$json" poll_ms_p50) \
        <(field "$json" poll_ms_p99) <(field "$json" poll_ms_max) <(field "$json" poll_complaint) >>"$dir/answers"
}

: >"$dir/frames"
: >"$dir/answers"
for pass in $(seq "$passes"); do
    for row in $rows; do
        echo "pass $pass, $row" >&2
        run "$row" "$pass"
    done
done

echo "Answers: ms from before the connection to the last byte; the bar is a p99 of 50"
awk '
    BEGIN { print "pass who-looks address answers failed KiB p50 p99 max bar" }
    {
        each = $4 > 0 ? sprintf("%.0f", $6 / $4 / 1024) : "-"
        bar = $5 == 0 && $4 > 0 && $8 <= 50 ? "held" : "MISSED"
        why = ""
        for (at = 10; at <= NF; at++) why = why "_" $at
        print $1, $2, $3, $4, $5, each, $7, $8, $9, bar (why != "_null" ? why : "")
    }' "$dir/answers" | column -t
echo
echo "Frames: latency in ms; more: than the p99 of the same pass while nobody looks; CPU: shares of one core"
awk '
    $2 == "nobody" { base[$1] = $4 }
    { line[NR] = $0 }
    END {
        print "pass who-looks p50 p99 more p99.9 lost/cut-off players server-CPU tool-CPU"
        for (at = 1; at <= NR; at++) {
            split(line[at], f, " ")
            more = f[1] in base ? sprintf("%+.2f", f[4] - base[f[1]]) : "-"
            print f[1], f[2], f[3], f[4], more, f[5], f[6], f[7], f[8], f[9]
        }
    }' "$dir/frames" | column -t
