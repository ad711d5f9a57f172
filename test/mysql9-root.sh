#!/bin/bash
# Makes a Debian unstable with MySQL 9 in the cache, for `make test-mysql`; does nothing if it is
# there. Needs root, debootstrap and 600 MB.
#
#   test/mysql9-root.sh CACHE
#   DEBIAN_MIRROR=http://mirror/debian test/mysql9-root.sh CACHE
set -euo pipefail

cache=${1:?the cache folder}
root=$cache/mysql9
if [[ -x $root/usr/sbin/mysqld ]]; then
	exit 0
fi
if ((EUID != 0)); then
	echo "mysql9-root.sh: debootstrap and chroot need root" >&2
	exit 1
fi

mkdir -p "$cache"
part=$(mktemp -d "$cache/mysql9.part-XXXXXX")
trap 'rm -rf "$part"' EXIT
log=$cache/mysql9.log
echo "mysql9-root.sh: making $root (about a minute)"
if ! debootstrap --variant=minbase --include=mysql-server-core sid "$part" \
	"${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$log" 2>&1; then
	tail -n 30 "$log" >&2
	exit 1
fi
rm -rf "$part"/var/cache/apt/archives/*.deb
mkdir -p "$part/srv/hermod"
chmod 755 "$part"
mv "$part" "$root"
chroot "$root" /usr/sbin/mysqld --no-defaults --version
