#!/usr/bin/env bash
# Runs every test of livemill: the one command, here and in CI.
#
#   scripts/test.sh               install what the tests need, then run everything
#   scripts/test.sh --no-install  install nothing; say what is missing and fail
#   scripts/test.sh --prepare     install what the tests need and stop
#
# Needs Rust and a Debian-like system, as root or with sudo. What the tests need besides (encoders, players, a browser, a
# reference server) comes from Debian packages; a newer ffmpeg, web players, cargo-deny and cargo-fuzz go below target/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# --- what the tests need -----------------------------------------------------------------------------------------------

# The command that proves a package is there, and the package.
APT_NEEDS=(
  "cc:gcc"
  "ffmpeg:ffmpeg"
  "ffprobe:ffmpeg"
  "nginx:nginx"
  "rtmpdump:rtmpdump"
  "gst-launch-1.0:gstreamer1.0-tools"
  "gst:rtmp2sink:gstreamer1.0-plugins-bad"
  "gst:rtmpsink:gstreamer1.0-plugins-bad"
  "gst:flvmux:gstreamer1.0-plugins-good"
  "gst:mpeg2dec:gstreamer1.0-plugins-ugly"
  "gst:avdec_h264:gstreamer1.0-libav"
  "nginx-module:ngx_rtmp_module:libnginx-mod-rtmp"
  "gio-tls:glib-networking"
  "python-venv:python3-venv"
  "chromium:chromium"
  "xsltproc:xsltproc"
  "node:nodejs"
  "npm:npm"
)
# Web players, as their projects publish them, and what drives the browser (the newest that Debian's node 18 can run).
NPM_NEEDS=(hls.js@1.7.4 mpegts.js@1.8.2 dashjs@5.2.1 video.js@8.24.1 puppeteer-core@24.8.2)
IMAGEIO_FFMPEG_VERSION=0.8.1 # carries ffmpeg 9, which speaks Enhanced RTMP; Debian's does not
SCHEMATHESIS_VERSION=4.32.5      # holds the API against its own document
PROMETHEUS_CLIENT_VERSION=0.26.0 # reads the metrics as Prometheus does
CARGO_DENY_VERSION=0.20.2
CARGO_FUZZ_VERSION=0.13.2
TOOLS="$PWD/target/test-tools"
export PATH="$TOOLS/bin:$PATH"
SYSTEM_PYTHON=/usr/bin/python3 # the one python3-venv belongs to

# --- saying and timing -------------------------------------------------------------------------------------------------

install=yes
only_prepare=no
for argument in "$@"; do
  case "$argument" in
  --no-install) install=no ;;
  --prepare) only_prepare=yes ;;
  -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    echo "test.sh: unknown argument '$argument' (try --help)" >&2
    exit 2
    ;;
  esac
done

summary=()
failed=()
say() { printf '\n== %s\n' "$*"; }

# part NAME COMMAND...: runs it, says how long it took, remembers a failure and goes on, so one run shows everything.
part() {
  local name=$1 began=$SECONDS
  shift
  say "$name: $*"
  if "$@" </dev/null; then
    summary+=("$name $((SECONDS - began))s")
  else
    echo "== $name FAILED" >&2
    summary+=("$name FAILED after $((SECONDS - began))s")
    failed+=("$name")
  fi
}

# --- installing --------------------------------------------------------------------------------------------------------

# has KIND: is this need met?
has() {
  case "$1" in
  gst:*) gst-inspect-1.0 "${1#gst:}" >/dev/null 2>&1 ;;
  nginx-module:*) [ -e "/usr/lib/nginx/modules/${1#nginx-module:}.so" ] ;;
  gio-tls) ls /usr/lib/*/gio/modules/libgio{gnutls,openssl}.so >/dev/null 2>&1 || dpkg -s glib-networking >/dev/null 2>&1 ;;
  python-venv) "$SYSTEM_PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 ;;
  *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 ;;
  esac
}

missing_packages() {
  local need
  for need in "${APT_NEEDS[@]}"; do
    has "${need%:*}" || echo "${need##*:}"
  done | sort -u
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

may_become_root() {
  [ "$(id -u)" = 0 ] && return 0
  command -v sudo >/dev/null 2>&1 || return 1
  sudo -n true 2>/dev/null || { [ -t 0 ] && sudo true; }
}

# Debian starts a fresh nginx on port 80; the tests start their own and want no other.
install_packages() {
  local policy=/usr/sbin/policy-rc.d ours=no status
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && ours=yes
    trap "as_root rm -f $policy" EXIT
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
      install --no-install-recommends "$@" >"$TOOLS/apt.log" 2>&1
  status=$?
  if [ "$ours" = yes ]; then
    as_root rm -f "$policy"
    trap - EXIT
  fi
  [ "$status" = 0 ] || tail -20 "$TOOLS/apt.log" >&2
  return "$status"
}

new_ffmpeg() { ls "$TOOLS"/venv/lib/python3*/site-packages/imageio_ffmpeg/binaries/ffmpeg-* 2>/dev/null | head -1; }

# install_python PACKAGE==VERSION...: into a virtual environment of the tests' own.
install_python() {
  # By its interpreter: the `pip` of an environment that was copied installs into the one it was copied from.
  "$TOOLS/venv/bin/python3" -m pip --version >/dev/null 2>&1 || "$SYSTEM_PYTHON" -m venv "$TOOLS/venv" || return 1
  "$TOOLS/venv/bin/python3" -m pip install --quiet --disable-pip-version-check "$@"
}

install_new_ffmpeg() { install_python "imageio-ffmpeg==$IMAGEIO_FFMPEG_VERSION"; }

# has_python PACKAGE==VERSION: is this Python package here in this version?
has_python() {
  "$TOOLS/venv/bin/python3" -c 'import sys; from importlib.metadata import version; sys.exit(version(sys.argv[1]) != sys.argv[2])' \
    "${1%==*}" "${1##*==}" >/dev/null 2>&1
}

PYTHON_NEEDS=("schemathesis==$SCHEMATHESIS_VERSION" "prometheus_client==$PROMETHEUS_CLIENT_VERSION")
missing_python() {
  local need
  for need in "${PYTHON_NEEDS[@]}"; do has_python "$need" || echo "$need"; done
}

# has_npm NAME@VERSION: is this npm package here in this version?
has_npm() { grep -qs "\"version\": \"${1##*@}\"" "$TOOLS/node/node_modules/${1%@*}/package.json"; }

missing_npm() {
  local need
  for need in "${NPM_NEEDS[@]}"; do has_npm "$need" || echo "$need"; done
}

# Without their install scripts: these packages are files to serve, and one of them would fetch a browser.
install_npm() { npm install --prefix "$TOOLS/node" --silent --no-audit --no-fund --ignore-scripts "${NPM_NEEDS[@]}"; }

deny() { cargo-deny "$@"; }

# has_tool NAME VERSION: is this cargo tool here, ours or the machine's own?
has_tool() { [ "$("$1" --version 2>/dev/null)" = "$1 $2" ]; }

# Unoptimised: a release profile with fat LTO takes many times as long to build, and these run for a second or only start others.
install_tool() {
  local name=$1 version=$2
  shift 2
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet "$name" --version "$version" --locked --debug "$@" --root "$TOOLS" \
    --target-dir "$TOOLS/$name-build" && rm -rf "$TOOLS/$name-build"
}

# need_tool NAME VERSION ARGUMENTS...: has it or builds it; what stays missing is added to `absent`.
need_tool() {
  local name=$1 version=$2
  has_tool "$name" "$version" && return
  if [ "$install" = yes ]; then
    echo "building $name $version (once, into target/test-tools)"
    install_tool "$@"
  fi
  has_tool "$name" "$version" || absent+=("$name $version (cargo install $name --version $version --locked)")
}

prepare() {
  local packages absent=()
  mkdir -p "$TOOLS"
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    if [ "$install" = yes ] && command -v rustup >/dev/null 2>&1; then
      echo "adding rustfmt and clippy to the Rust toolchain"
      rustup component add rustfmt clippy || absent+=("rustfmt and clippy (rustup component add rustfmt clippy)")
    else
      absent+=("rustfmt and clippy (rustup component add rustfmt clippy)")
    fi
  fi

  mapfile -t packages < <(missing_packages)
  if [ "${#packages[@]}" -gt 0 ]; then
    if [ "$install" = yes ] && command -v apt-get >/dev/null 2>&1 && may_become_root; then
      echo "installing Debian packages: ${packages[*]}"
      install_packages "${packages[@]}"
      mapfile -t packages < <(missing_packages)
    elif [ "$install" = yes ]; then
      echo "may not install Debian packages here: that takes apt-get, and root or sudo"
    fi
    [ "${#packages[@]}" -gt 0 ] && absent+=("Debian packages: ${packages[*]} (apt-get install ${packages[*]})")
  fi

  if [ -z "$(new_ffmpeg)" ]; then
    if [ "$install" = yes ] && has python-venv; then
      echo "fetching a newer ffmpeg (PyPI package imageio-ffmpeg $IMAGEIO_FFMPEG_VERSION, into target/test-tools/venv)"
      install_new_ffmpeg
    fi
    [ -n "$(new_ffmpeg)" ] || absent+=("a newer ffmpeg: PyPI package imageio-ffmpeg $IMAGEIO_FFMPEG_VERSION in target/test-tools/venv")
  fi

  if [ -n "$(missing_python)" ]; then
    if [ "$install" = yes ] && has python-venv; then
      echo "fetching what checks the API (PyPI packages ${PYTHON_NEEDS[*]}, into target/test-tools/venv)"
      install_python "${PYTHON_NEEDS[@]}"
    fi
    [ -z "$(missing_python)" ] || absent+=("PyPI packages in target/test-tools/venv: $(missing_python | tr '\n' ' ')")
  fi

  if [ -n "$(missing_npm)" ]; then
    if [ "$install" = yes ] && has npm; then
      echo "fetching web players (npm packages ${NPM_NEEDS[*]}, into target/test-tools/node)"
      mkdir -p "$TOOLS/node" && install_npm
    fi
    [ -z "$(missing_npm)" ] || absent+=("npm packages in target/test-tools/node: $(missing_npm | tr '\n' ' ')")
  fi

  need_tool cargo-deny "$CARGO_DENY_VERSION" --no-default-features
  need_tool cargo-fuzz "$CARGO_FUZZ_VERSION"

  [ "${#absent[@]}" = 0 ] && echo "everything the tests need is here" && return 0
  echo "missing:" >&2
  printf '  - %s\n' "${absent[@]}" >&2
  return 1
}

# --- the parts ---------------------------------------------------------------------------------------------------------

check_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet --locked; }

check_advisories() {
  # The list of known-bad crate versions lives on the network. Not reaching it is said, and is not our failure.
  if ! command -v git >/dev/null 2>&1 ||
    ! GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --exit-code https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
    echo "NOT CHECKED: the advisory database cannot be reached from here"
    not_checked=" (advisories not checked: database not reachable)"
    return 0
  fi
  deny --locked check advisories
}

began=$SECONDS
not_checked=""
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
# Some tests hold hundreds of sockets on both ends.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

say "prepare: what the tests need"
if ! prepare </dev/null; then
  echo "== stopped: the tests would fail without these" >&2
  exit 1
fi
summary+=("prepare $((SECONDS - began))s")
[ "$only_prepare" = yes ] && exit 0

part fmt cargo fmt --check
part clippy cargo clippy --all-targets --locked --quiet -- -D warnings
part doc check_docs
part deny deny --locked check --hide-inclusion-graph bans licenses sources
part advisories check_advisories
part fuzz scripts/fuzz.sh 10
# Last, so that its closing lines stand at the end; to the last test, so that one run shows everything.
part test cargo test --locked --quiet --no-fail-fast

say "$(printf '%s, ' "${summary[@]}")total $((SECONDS - began))s"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all passed$not_checked"
