#!/usr/bin/env bash
# Holds livemill against nginx with its RTMP module in a cluster, on this machine: an edge that pulls, an origin that pushes.
#
# The far side is livemill in every row: the origin of the edges, the sink of the origins. The servers take turns within a
# scenario. Absolute figures differ from machine to machine and from minute to minute: judge by the ratios within a pass.
set -euo pipefail

usage() {
    cat <<'END'
usage: benches/relay.sh [OPTIONS]
  --passes N          how often everything is run (3)
  --duration SECONDS  length of each measurement (10)
  --scenarios LIST    of: edge push ("edge push")
  --players LIST      players of the one stream that the edge pulls ("500")
  --streams LIST      streams that the origin pushes, each to one sink ("100")
  --rows LIST         of: nginx livemill low-latency ("nginx livemill low-latency")
  --no-pin            do not pin the server to core 0 and everything else to core 1
  --no-build          take target/release/livemill as it is
END
}

passes=3 duration=10 scenarios="edge push" players=500 streams=100 rows="nginx livemill low-latency" pin=yes build=yes
while [ $# -gt 0 ]; do
    case $1 in
        --passes) passes=$2; shift 2 ;;
        --duration) duration=$2; shift 2 ;;
        --scenarios) scenarios=$2; shift 2 ;;
        --players) players=$2; shift 2 ;;
        --streams) streams=$2; shift 2 ;;
        --rows) rows=$2; shift 2 ;;
        --no-pin) pin=no; shift ;;
        --no-build) build=no; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
[ $build = no ] || cargo build --release
livemill=$(realpath "${LIVEMILL:-${CARGO_TARGET_DIR:-target}/release/livemill}")
module=/usr/lib/nginx/modules/ngx_rtmp_module.so
load_module=
if [ -e $module ]; then
    load_module="load_module $module;"
elif [[ " $rows " == *" nginx "* ]] && ! nginx -V 2>&1 | grep -q rtmp; then
    echo "nginx with its RTMP module is missing (Debian: nginx-light libnginx-mod-rtmp); or leave it out with --rows" >&2
    exit 2
fi

dir=$(mktemp -d)
started=()
stop_all() {
    local pid
    for pid in "${started[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    started=()
}
clean_up() {
    stop_all
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

# start ROW NAME PORT INSIDE: a server whose application live has INSIDE; sets $pid.
start() {
    local row=$1 name=$2 port=$3 inside=$4 core=("${second[@]}")
    [ "$name" != measured ] || core=("${first[@]}")
    [ "$row" != low-latency ] || inside+=" low_latency on;"
    {
        [ "$row" != nginx ] || echo "$load_module"
        cat <<END
worker_processes 1;
daemon off;
error_log $dir/$name.log $([ "$row" = nginx ] && echo warn || echo info);
pid $dir/$name.pid;
worker_rlimit_nofile $(ulimit -n);
events { worker_connections 8192; }
rtmp { access_log off; server { listen 127.0.0.1:$port; chunk_size 4096; application live { live on; $inside } } }
END
    } >"$dir/$name.conf"
    : >"$dir/$name.log"
    if [ "$row" = nginx ]; then
        "${core[@]}" nginx -p "$dir" -c "$dir/$name.conf" 2>>"$dir/$name.log" &
    else
        "${core[@]}" "$livemill" -c "$dir/$name.conf" >>"$dir/$name.log" 2>&1 &
    fi
    pid=$!
    started+=("$pid")
    local tries=0
    until is_open "$port"; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 "$pid" 2>/dev/null; then
            echo "$row does not start:" >&2
            cat "$dir/$name.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

# publish PORT STREAMS: for as long as all the measuring takes.
publish() {
    "${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$1/live/bench" --publishers "$2" --players 0 --warmup 1 \
        --duration $((duration + 60)) --json >/dev/null 2>"$dir/publish.log" &
    started+=("$!")
}

ticks=$(getconf CLK_TCK)
# cpu PID: of a server and its workers so far, in ticks of the clock.
cpu() {
    local each sum=0
    for each in "$1" $(cat "/proc/$1/task/"*/children 2>/dev/null); do
        set -- "$1" $(sed 's/.*) //' "/proc/$each/stat")
        sum=$((sum + ${13} + ${14}))
    done
    echo $sum
}
field() { grep -o "\"$2\":[^,}]*" <<<"$1" | cut -d: -f2; }

edge() {
    local count=$1 pass=$2 row json far near
    for row in $rows; do
        far=$(free_port)
        start livemill origin "$far" ""
        publish "$far" 1
        near=$(free_port)
        start "$row" measured "$near" "pull rtmp://127.0.0.1:$far/live;"
        json=$("${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$near/live/bench" --publishers 0 --players "$count" \
            --duration "$duration" --server-pid "$pid" --json)
        echo "edge-$count $row $pass $(field "$json" server_cpu_us_per_player_s) $(field "$json" video_latency_ms_p50) $(field "$json" video_latency_ms_p99) $(field "$json" frames_lost)/$(field "$json" players_cut_off) $(field "$json" players_ready)" >>"$dir/results"
        stop_all
    done
}

push() {
    local count=$1 pass=$2 row far near before after tries
    for row in $rows; do
        far=$(free_port)
        start livemill sink "$far" ""
        near=$(free_port)
        start "$row" measured "$near" "push rtmp://127.0.0.1:$far/live;"
        publish "$near" "$count"
        tries=0
        until [ "$(grep -c ' publishing,' "$dir/sink.log")" -ge "$count" ]; do
            tries=$((tries + 1))
            if [ $tries -gt 200 ]; then
                echo "$row pushes only $(grep -c ' publishing,' "$dir/sink.log") of $count streams" >&2
                tail -n 20 "$dir/measured.log" "$dir/publish.log" >&2
                exit 1
            fi
            sleep 0.1
        done
        sleep 2 # what was cached has gone out
        before=$(cpu "$pid")
        sleep "$duration"
        after=$(cpu "$pid")
        echo "push-$count $row $pass $(awk "BEGIN {printf \"%.0f\", ($after - $before) / $ticks * 1e6 / $duration / $count}") - - - $(grep -c ' publishing,' "$dir/sink.log")" >>"$dir/results"
        stop_all
    done
}

: >"$dir/results"
for pass in $(seq "$passes"); do
    for scenario in $scenarios; do
        echo "pass $pass, $scenario" >&2
        case $scenario in
            edge) for count in $players; do edge "$count" "$pass"; done ;;
            push) for count in $streams; do push "$count" "$pass"; done ;;
            *) echo "there is no scenario $scenario" >&2; exit 2 ;;
        esac
    done
done

echo "CPU: µs a second for each player of the edge, for each stream of the origin; ready: players that played, pushes that came"
awk '
    { if ($2 == "nginx") nginx[$1, $3] = $4; line[NR] = $0; key[NR] = $1 SUBSEP $3 }
    END {
        print "scenario server pass CPU ×nginx p50-ms p99-ms lost/cut-off ready"
        for (at = 1; at <= NR; at++) {
            split(line[at], f, " ")
            base = nginx[f[1], f[3]]
            print f[1], f[2], f[3], f[4], (base > 0 ? sprintf("%.2f", f[4] / base) : "-"), f[5], f[6], f[7], f[8]
        }
    }' "$dir/results" | sort -s -k1,1r -k2,2 -k3,3 | column -t
