#!/bin/bash
# Generates the Go code of wire/proto into the tree under a folder: tools/protoc.sh OUT
# protoc-gen-go is built at the version of the runtime that go.mod requires.
set -euo pipefail

out=$(realpath "${1:?the folder to write into}")
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
protoc --plugin="$bin/protoc-gen-go" -I wire/proto --go_out="$out" --go_opt=module=github.com/hermod-im/hermod wire/proto/*.proto
