#!/bin/bash
# Installs what the tests and the code generator need and this machine lacks, from Debian's
# packages. Does nothing, and needs no rights, where everything is there.
#
#   test/install.sh            servers, protoc, make, and the C compiler of the race detector
#   test/install.sh mysql9     debootstrap too, for test/mysql9-root.sh
set -euo pipefail

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=()
need() { # program package...
	command -v "$1" >/dev/null || missing+=("${@:2}")
}
need make make
need "${CC:-gcc}" gcc libc6-dev
need mariadbd mariadb-server
need redis-server redis-server
need protoc protobuf-compiler
if [[ ${1:-} == mysql9 ]]; then
	need debootstrap debootstrap
fi
if ((${#missing[@]} == 0)); then
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	echo "install.sh: missing ${missing[*]}, and this is no Debian: install them by hand" >&2
	exit 1
fi
as_root=()
if ((EUID != 0)); then
	if ! command -v sudo >/dev/null; then
		echo "install.sh: missing ${missing[*]}: as root, apt-get install ${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo)
fi

# A package's server must not start by itself: the tests run their own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
	"${as_root[@]}" chmod 755 "$policy"
	trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

log=$(mktemp)
echo "install.sh: installing ${missing[*]}"
if ! {
	"${as_root[@]}" apt-get update &&
		"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
} >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
rm -f "$log"
