#!/usr/bin/env bash
# Holds livemill against nginx with its RTMP module, and both against a bare loop, on this machine.
#
# Each row starts its server afresh; the servers take turns within a scenario, and the scenarios within a pass. Absolute
# figures differ from machine to machine and, where cores are shared, from minute to minute: judge by the ratios within a pass.
set -euo pipefail

usage() {
    cat <<'END'
usage: benches/compare.sh [OPTIONS]
  --passes N          how often everything is run (3)
  --duration SECONDS  length of each measurement (15)
  --players LIST      player counts of the fan-out scenarios ("100 500 1000 2000")
  --scenarios LIST    of: fan-out streams idle ("fan-out streams idle")
  --rows LIST         of: nginx default low-latency merge-100 merge-350 floor-each floor-ride floor-tick-100 (all of them)
  --no-pin            do not pin the server to core 0 and the tool to core 1
  --no-build          take target/release/livemill as it is
  --keep DIR          leave configurations, logs and each run's JSON there
END
}

passes=3 duration=15 players="100 500 1000 2000" scenarios="fan-out streams idle" pin=yes build=yes keep=
rows="nginx default low-latency merge-100 merge-350 floor-each floor-ride floor-tick-100"
while [ $# -gt 0 ]; do
    case $1 in
        --passes) passes=$2; shift 2 ;;
        --duration) duration=$2; shift 2 ;;
        --players) players=$2; shift 2 ;;
        --scenarios) scenarios=$2; shift 2 ;;
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
livemill=${LIVEMILL:-${CARGO_TARGET_DIR:-target}/release/livemill}
livemill=$(realpath "$livemill")

if [[ " $rows " == *" nginx "* ]]; then
    module=/usr/lib/nginx/modules/ngx_rtmp_module.so
    load_module=
    if [ -e $module ]; then
        load_module="load_module $module;"
    elif ! nginx -V 2>&1 | grep -q rtmp; then
        echo "nginx with its RTMP module is missing (Debian: nginx-light libnginx-mod-rtmp); or leave it out with --rows" >&2
        exit 2
    fi
fi

if [ -n "$keep" ]; then
    mkdir -p "$keep"
    dir=$(realpath "$keep")
else
    dir=$(mktemp -d)
fi
server_pid=
clean_up() {
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    [ -z "${group_before:-}" ] || echo "$group_before" >/proc/self/autogroup || true
    [ -n "$keep" ] || rm -rf "$dir"
}
trap clean_up EXIT

# Thousands of players need thousands of files, in the tool and in the server.
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
if nice -n -10 true 2>/dev/null && [ "$(nice -n -10 nice)" = -10 ]; then
    first+=(nice -n -10) second+=(nice -n -10)
fi

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port=$((20000 + RANDOM % 10000))
    while is_open $port; do port=$((port + 1)); done
    echo $port
}

# start_server ROW PORT: sets server_pid.
start_server() {
    local row=$1 port=$2 mode=
    local common="worker_processes 1; daemon off; error_log $dir/$row.log warn; pid $dir/$row.pid;"
    case $row in
        nginx)
            cat >"$dir/$row.conf" <<END
$load_module
$common
worker_rlimit_nofile $(ulimit -n);
events { worker_connections 8192; }
rtmp { access_log off; server { listen 127.0.0.1:$port; chunk_size 4096; application live { live on; } } }
END
            "${first[@]}" nginx -p "$dir" -c "$dir/$row.conf" 2>>"$dir/$row.log" &
            ;;
        floor-*)
            mode=${row#floor-}
            "${first[@]}" "$livemill" bench floor --listen "127.0.0.1:$port" --mode "${mode/tick-/tick:}" 2>>"$dir/$row.log" &
            ;;
        *)
            case $row in
                default) ;;
                low-latency) mode="low_latency on;" ;;
                merge-*) mode="merge ${row#merge-}ms;" ;;
                *) echo "there is no row $row" >&2; exit 2 ;;
            esac
            cat >"$dir/$row.conf" <<END
$common
events { worker_connections 8192; }
rtmp { access_log off; server { listen 127.0.0.1:$port; chunk_size 4096; application live { live on; $mode } } }
END
            "${first[@]}" "$livemill" -c "$dir/$row.conf" >>"$dir/$row.log" 2>&1 &
            ;;
    esac
    server_pid=$!
    local tries=0
    until is_open "$port"; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            echo "$row does not start:" >&2
            cat "$dir/$row.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

stop_server() {
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

# field JSON NAME
field() { grep -o "\"$2\":[^,}]*" <<<"$1" | cut -d: -f2; }

# run SCENARIO ROW PASS TOOL-ARGUMENTS...
run() {
    local scenario=$1 row=$2 pass=$3 port json
    shift 3
    port=$(free_port)
    start_server "$row" "$port"
    # The floor makes its own stream.
    [[ $row != floor-* ]] || set -- "$@" --publishers 0
    # A server may close who says nothing for some seconds: measure before.
    [[ $scenario == idle-* ]] && set -- "$@" --warmup 1 --duration 1 || set -- "$@" --duration "$duration"
    echo "pass $pass, $scenario, $row" >&2
    if json=$("${second[@]}" "$livemill" bench "rtmp://127.0.0.1:$port/live/bench" "$@" \
        --server-pid "$server_pid" --json); then
        echo "$json" >"$dir/$scenario.$row.$pass.json"
        local line="$scenario $row $pass" name
        for name in "${fields[@]}"; do line+=" $(field "$json" "$name")"; done
        echo "$line" >>"$dir/results"
    fi
    stop_server
}

fields=(server_cpu_us_per_player_s video_latency_ms_p50 video_latency_ms_p99 video_latency_ms_max audio_latency_ms_p50
    frames_lost players_cut_off players_ready frames_per_player_min frames_per_player_max play_to_key_ms_p50
    server_rss_kib_per_connection server_rss_mib idle_ready connect_ms_p50 tool_cpu_share idle_cut_off)

: >"$dir/results"
for pass in $(seq "$passes"); do
    for scenario in $scenarios; do
        case $scenario in
            fan-out)
                for count in $players; do
                    for row in $rows; do run "players-$count" "$row" "$pass" --players "$count"; done
                done
                ;;
            streams)
                for row in $rows; do
                    [[ $row == floor-* ]] || run streams-200 "$row" "$pass" --publishers 200 --players 200
                done
                ;;
            idle)
                for row in $rows; do
                    [[ $row != nginx && $row != default ]] ||
                        run idle-2000 "$row" "$pass" --publishers 0 --players 0 --idle 2000 --ramp 1000
                done
                ;;
            *) echo "there is no scenario $scenario" >&2; exit 2 ;;
        esac
    done
done

awk -v passes="$passes" '
    function median(list,    n, i, j, t, v) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return n == 0 ? "" : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    function add(list, value) { return list == "" ? value : list " " value }
    function show(list) { gsub(/ /, " / ", list); return list }
    {
        key = $1 SUBSEP $2
        if (!($1 in seen)) { seen[$1] = 1; scenario[++scenarios] = $1 }
        if (!(key in known)) { known[key] = 1; row[$1, ++rows[$1]] = $2 }
        if ($2 == "nginx") { nginx[$1, $3] = $4; nginx_rss[$1, $3] = $15 }
        value[key, $3] = $4; rss[key, $3] = $15
        for (f = 4; f <= NF; f++) all[key, f] = add(all[key, f], $f)
    }
    function ratios(key, of, to, s,    p, list) {
        list = ""
        for (p = 1; p <= passes; p++) if (to[s, p] + 0 > 0 && (key, p) in of) list = add(list, sprintf("%.2f", of[key, p] / to[s, p]))
        return list
    }
    function m(f) { return median(all[key, f]) }
    END {
        for (i = 1; i <= scenarios; i++) {
            s = scenario[i]
            printf "\n### %s\n\n", s
            if (s ~ /^idle/) {
                print "| server | ready | cut off | KiB/connection | × nginx | median | RSS MiB | connect ms p50 |"
                print "|---|---:|---:|---:|---:|---:|---:|---:|"
            } else {
                print "| server | CPU µs/(player·s) | × nginx by pass | median | video p50 ms | p99 | max | audio p50 ms | lost | cut off | ready | frames/player | play to keyframe ms p50 | KiB/connection | RSS MiB | tool core share |"
                print "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
            }
            for (j = 1; j <= rows[s]; j++) {
                key = s SUBSEP row[s, j]
                if (s ~ /^idle/) {
                    r = ratios(key, rss, nginx_rss, s)
                    printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", row[s, j], m(17), m(20), show(all[key, 15]), show(r), median(r), m(16), m(18)
                } else {
                    r = ratios(key, value, nginx, s)
                    printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s–%s | %s | %s | %s | %s |\n", row[s, j], show(all[key, 4]), show(r), median(r), m(5), m(6), m(7), m(8), m(9), m(10), m(11), m(12), m(13), m(14), m(15), m(16), m(19)
                }
            }
        }
    }' "$dir/results"
