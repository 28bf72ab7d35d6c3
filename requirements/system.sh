#!/bin/sh
# Install the Debian packages that the full test run needs: those of debian.txt that are missing, nothing else.
# Works as root or through sudo; says so where it cannot.
set -eu
cd "$(dirname "$0")"

if ! command -v apt-get >/dev/null; then
    echo "make system: this machine has no apt-get; install the likes of: $(grep -v '^#' debian.txt | tr '\n' ' ')" >&2
    exit 2
fi

# Node comes from elsewhere as often as from Debian, whose npm then cannot be installed beside it.
is_there() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' && return
    case $1 in
        nodejs) command -v node >/dev/null ;;
        npm) command -v npm >/dev/null ;;
        *) return 1 ;;
    esac
}

missing=
for package in $(grep -v '^#' debian.txt); do
    is_there "$package" || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "make system: every package is there." >&2
    exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "make system: run it as root, or install sudo; missing:$missing" >&2
        exit 2
    fi
    as_root=sudo
fi
$as_root apt-get update -q
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
