// Package transporttest checks codecs against the contract of transport.Codec.
package transporttest

import (
	"bytes"
	"testing"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// maxPayload is the limit that CheckParse parses with, in bytes.
const maxPayload = 1 << 10

// CheckParse parses b whole and as it grows: the answers must agree, and n must never ask for less
// than is needed to go on.
func CheckParse(t *testing.T, codec transport.Codec, b []byte) {
	t.Helper()
	want, size, wantErr := codec.Parse(bytes.Clone(b), maxPayload)
	if wantErr == nil && size <= 0 {
		t.Fatalf("n = %d", size)
	}
	for have := 0; have <= len(b); have++ {
		got, n, err := codec.Parse(bytes.Clone(b[:have]), maxPayload)
		switch {
		case err != nil:
			if wantErr == nil {
				t.Fatalf("%d of %d bytes: %v; all: none", have, len(b), err)
			}
			return
		case n > have:
			if n > maxPayload+transport.MaxHeader {
				t.Fatalf("%d bytes asked for", n)
			}
			if wantErr == nil && size <= len(b) && n > size {
				t.Fatalf("%d bytes asked for, %d needed", n, size)
			}
		default:
			if wantErr != nil || n != size || got.Op != want.Op || got.More != want.More || !bytes.Equal(got.Payload, want.Payload) {
				t.Fatalf("%d of %d bytes: %v (%d); all: %v (%d) %v", have, len(b), got, n, want, size, wantErr)
			}
			if len(got.Payload) > maxPayload || got.Op.IsControl() && len(got.Payload) > transport.MaxControl {
				t.Fatalf("payload of %d bytes", len(got.Payload))
			}
			return
		}
	}
	if wantErr != nil || size <= len(b) {
		t.Fatalf("all bytes: %v, %d, %v; as they come: nothing", want, size, wantErr)
	}
}

// CheckParseAllocs asserts that the frame parses without an allocation.
func CheckParseAllocs(t *testing.T, codec transport.Codec, frame []byte) {
	t.Helper()
	var op im.OpCode
	allocs := testing.AllocsPerRun(100, func() {
		f, n, err := codec.Parse(frame, maxPayload)
		if err != nil || n != len(frame) {
			t.Fatal(n, err)
		}
		op = f.Op
	})
	if allocs != 0 || op != im.OpBinary {
		t.Fatalf("%v allocations", allocs)
	}
}
