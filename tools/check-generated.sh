#!/bin/bash
# Fails if the committed generated code is not what tools/protoc.sh makes of wire/proto. The line
# that names protoc's own version does not count: Debian's releases differ in it.
set -euo pipefail

cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/protoc.sh "$fresh"
if ! diff --recursive --unified=1 --ignore-matching-lines='^//[[:space:]]*protoc[[:space:]]' wire/pb "$fresh/wire/pb"; then
	echo "wire/pb is not current: make generate" >&2
	exit 1
fi
