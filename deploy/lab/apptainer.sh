#!/usr/bin/env bash
# Apptainer on Debian 12, which has no package of it, amd64 or arm64.
#
# A newer suite has one, linked with a newer libc. That libc must not replace the machine's: package and shared libraries
# are unpacked below /opt/apptainer, and the two programs are pointed at the loader there. The newer suite is read through
# an apt configuration of its own, so that the machine's sources and package database do not change. What Apptainer runs
# (mksquashfs, squashfuse, newuidmap) comes from the machine's own suite in the usual way.
set -eEuo pipefail
trap 'echo "lab: apptainer: line $LINENO failed" >&2' ERR

PREFIX=/opt/apptainer
SUITES=(bookworm-backports trixie-backports forky sid)
HOST_TOOLS=(ca-certificates fuse3 patchelf squashfs-tools squashfuse uidmap)
CACHE=${LAB_CACHE:-/var/cache/ccat-workflow-manager-lab}/apptainer
ARCH=$(dpkg --print-architecture)
TRIPLET=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
APT=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Acquire::Languages=none -o APT::Sandbox::User=root)

say() { echo "lab: apptainer: $*"; }
die() { say "$*" >&2; exit 1; }

if found=$(apptainer --version 2>/dev/null) && command -v mksquashfs squashfuse >/dev/null; then
  say "$found is there"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_host_tools() {
  local log=$work/host.log
  apt-get "${APT[@]}" install -y --no-install-recommends "${HOST_TOOLS[@]}" >"$log" 2>&1 && return
  # The machine's package lists may be missing or out of date.
  { apt-get "${APT[@]}" update && apt-get "${APT[@]}" install -y --no-install-recommends "${HOST_TOOLS[@]}"; } >"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; die "apt-get could not install ${HOST_TOOLS[*]}"; }
}

archive_uri() { # the archive that the machine takes its own suite from
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /-/ && !seen++ {print $3}'
}

newer() { # an apt command that sees one newer suite and nothing of the machine
  "$@" "${APT[@]}" -o Dir::Etc::SourceList="$work/newer.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Dir::State::Lists="$work/lists" \
    -o Dir::Cache="$work/cache" -o APT::Update::Post-Invoke= -o APT::Update::Post-Invoke-Success=
}

download() { # the package and the libraries it depends on, into the directory $1
  local uri suite depends key=/usr/share/keyrings/debian-archive-keyring.gpg
  uri=$(archive_uri)
  [ -n "$uri" ] || die "this machine's apt knows no Debian archive"
  for suite in "${SUITES[@]}"; do
    rm -rf "$work/lists" "$work/cache"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    echo "deb [signed-by=$key] $uri $suite main" >"$work/newer.list"
    newer apt-get update -qq >"$work/newer.log" 2>&1 || continue
    depends=$(newer apt-cache show --no-all-versions apptainer 2>/dev/null |
      sed -n 's/^Depends: //p' | tr , '\n' | awk '/^ *lib/ {print $1}' || true)
    [ -n "$depends" ] || continue # there is no such package
    # shellcheck disable=SC2086 # one word per library
    (cd "$1" && newer apt-get download -qq apptainer $depends && sha256sum ./*.deb >SHA256SUMS) >>"$work/newer.log" 2>&1 && return
    tail -n 5 "$work/newer.log" >&2
  done
  die "none of the suites ${SUITES[*]} has it, or they cannot be reached"
}

configure() { # NAME VALUE: a line of apptainer.conf
  sed -i "s|^$1 = .*|$1 = $2|" "$work/stage/etc/apptainer/apptainer.conf"
}

assemble() { # the installation in $work/stage from the packages in $1
  local package program stage=$work/stage
  mkdir -p "$work/libs" "$work/package"
  for package in "$1"/*.deb; do
    case ${package##*/} in
      apptainer_*) dpkg-deb -x "$package" "$work/package" ;;
      *) dpkg-deb -x "$package" "$work/libs" ;;
    esac
  done
  cp -a "$work/package/usr" "$stage"
  cp -a "$work/package/etc" "$stage/etc"
  mkdir -p "$stage/lib/private" "$stage/var/lib/apptainer/mnt/session"
  find "$work/libs" -path "*/$TRIPLET/*.so*" -not -path '*/gconv/*' -exec cp -a {} "$stage/lib/private/" \;
  # The program that starts containers looks for its configuration relative to where it lies, which is below lib.
  ln -s ../etc ../var "$stage/lib/"
  loader=$(basename "$(find "$stage/lib/private" -name 'ld-linux-*.so.*' -print -quit)")
  for program in "$stage/bin/apptainer" "$stage/lib/$TRIPLET/apptainer/bin/starter"; do
    # RPATH and not RUNPATH: the libraries must find each other there too.
    patchelf --set-interpreter "$PREFIX/lib/private/$loader" --force-rpath --set-rpath "$PREFIX/lib/private" "$program"
  done
  [ "$(cat /proc/1/comm)" = systemd ] || configure 'systemd cgroups' no
  # In many virtual machines root does not have every capability there is, and Apptainer would insist on all of them.
  local have last
  have=$((16#$(awk '/^CapPrm/ {print $2}' /proc/self/status)))
  last=$(cat /proc/sys/kernel/cap_last_cap)
  [ $have -eq $(((1 << (last + 1)) - 1)) ] || configure 'root default capabilities' no
}

[ "$ARCH" = amd64 ] || [ "$ARCH" = arm64 ] || die "there is no package for $ARCH"
install_host_tools
if ! (cd "$CACHE" 2>/dev/null && sha256sum --quiet -c SHA256SUMS >/dev/null 2>&1); then
  rm -rf "$CACHE" && mkdir -p "$CACHE"
  download "$CACHE"
fi
assemble "$CACHE"
chmod 755 "$work/stage"
rm -rf "$PREFIX" "$PREFIX.new"
cp -a "$work/stage" "$PREFIX.new"
mv "$PREFIX.new" "$PREFIX"
mkdir -p /usr/local/bin
for name in apptainer singularity; do ln -sfn "$PREFIX/bin/apptainer" "/usr/local/bin/$name"; done
# Without this only root can mount images.
[ ! -e /dev/fuse ] || chmod 0666 /dev/fuse
say "$(apptainer --version) is installed in $PREFIX"
