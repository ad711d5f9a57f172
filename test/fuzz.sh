#!/bin/bash
# Runs every fuzz test of the module for a while: test/fuzz.sh 10s
set -euo pipefail

cd "$(dirname "$0")/.."
git grep --untracked -hoP '^func \KFuzz\w+' -- '*_test.go' >/dev/null || { echo "no fuzz tests"; exit 0; }
git grep --untracked -oP '^func \KFuzz\w+' -- '*_test.go' | while IFS=: read -r file name; do
	echo "== $name in ${file%/*}"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:?how long for each}" "./${file%/*}"
done
