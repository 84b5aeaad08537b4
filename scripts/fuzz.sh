#!/bin/sh
# Runs every fuzz target for a while, on the toolchain the server is built with.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]      10 seconds and all targets by default
#
# Starts from the seeds and from what earlier runs found (fuzz/corpus). Ends with a failure if any target crashed, hung, or
# took too much memory, and says where the input is: move it to fuzz/seeds/TARGET/found-*, then fix. The whole run ends
# after (SECONDS + 60) a target at the latest, not counting the build.
set -eu

seconds=${1:-10}
case $seconds in
'' | *[!0-9]*) echo "usage: scripts/fuzz.sh [SECONDS [TARGET...]]" >&2; exit 2 ;;
esac
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/.."

# What the fuzzer needs of the compiler is not stable yet; the compiler is.
export RUSTC_BOOTSTRAP=1
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
export PATH="$PWD/target/test-tools/bin:$PATH"
cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: scripts/test.sh --prepare builds it" >&2; exit 1; }

# Without a sanitizer: the code is safe Rust, so what remains are panics, hangs and memory, and those show without, faster.
built="--sanitizer none --codegen-units 16"
cargo fuzz build $built
[ $# -gt 0 ] || set -- $(cargo fuzz list)

# The words of a target's language: those that its source spells out.
words() {
    echo '"live"' # an empty dictionary is an error
    case $1 in
    config) sources=src/config/directives.rs ;;
    session | client_session) sources='src/protocol/rtmp/*.rs' ;;
    url) sources=src/protocol/rtmp/url.rs ;;
    playlist_query) sources=src/protocol/hls/playlist.rs ;;
    *) return 0 ;;
    esac
    grep -hoE '"[A-Za-z_.:/?=]{2,40}"' $sources | sort -u
}

# $1: target, $2: seconds, $3: where a crashing input goes, then folders with inputs
run() {
    target=$1 time=$2 artifacts=$3
    shift 3
    words "$target" >"$logs/words"
    # The outer limit is for a fuzzer that fails to stop itself.
    timeout --kill-after=5 $((time + 60)) cargo fuzz run $built "$target" "$@" -- \
        -max_total_time="$time" -timeout=5 -rss_limit_mb=512 -max_len=8192 \
        -dict="$logs/words" -artifact_prefix="$artifacts/" -print_final_stats=0 -verbosity=1
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT INT TERM
failed=

for target in "$@"; do
    if [ "$target" = canary ]; then
        # It must crash: a fuzzer that finds nothing there would find nothing anywhere.
        mkdir -p "$logs/canary"
        if run canary 20 "$logs/canary" "$logs/canary" >"$logs/log" 2>&1 || ! grep -q 'the canary sings' "$logs/log"; then
            echo "canary: did not crash as it must" >&2
            tail -n 20 "$logs/log" >&2
            failed="$failed canary"
        else
            echo "canary: crashed, as it must"
        fi
        continue
    fi
    mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target" "fuzz/artifacts/$target"
    if run "$target" "$seconds" "fuzz/artifacts/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" >"$logs/log" 2>&1; then
        printf '%s: %s\n' "$target" "$(grep '^Done ' "$logs/log" || echo 'ended without a word')"
    else
        echo "$target: FAILED" >&2
        grep -v -e 'NEW ' -e 'REDUCE' -e 'pulse' -e ' Uses: ' "$logs/log" | tail -n 60 >&2
        failed="$failed $target"
    fi
done

if [ -n "$failed" ]; then
    echo "fuzzing failed:$failed" >&2
    exit 1
fi
