#!/bin/bash
# Runs every fuzz test of the module for a while, or for a number of inputs:
#
#   test/fuzz.sh 10s
#   test/fuzz.sh 10000x
set -euo pipefail

for_each=${1:?how long}
cd "$(dirname "$0")/.."
found=$(grep -roP --include='*_test.go' '^func \KFuzz\w+' . || true)
while IFS=: read -r file name; do
	[[ -n $name ]] || continue
	echo "== $name in ${file%/*}"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$for_each" "${file%/*}"
done <<<"$found"
