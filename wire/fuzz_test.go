package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hermod-im/hermod/wire"
)

// seed gives the fuzzer every golden vector, good and bad.
func seed(f *testing.F) {
	f.Helper()
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		f.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		f.Fatal(err)
	}
	add := func(s string) {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, x := range v.Logic {
		add(x.Hex)
	}
	for _, x := range v.Basic {
		add(x.Hex)
	}
	for _, x := range v.Malformed {
		add(x.Hex)
	}
}

// FuzzUnmarshal: no panic, no memory beyond a small multiple of the input, and what was read once is
// written and read again as the same.
func FuzzUnmarshal(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		kept := bytes.Clone(data)
		p, err := wire.Unmarshal(data)
		if !bytes.Equal(kept, data) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			return
		}
		again, err := wire.Unmarshal(wire.Marshal(p.(packet)))
		if err != nil {
			t.Fatalf("own bytes refused: %v", err)
		}
		equal(t, p, again)
	})
}

// FuzzUnmarshalClient: takes exactly what Unmarshal would, minus what a client may not say.
func FuzzUnmarshalClient(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var client, all wire.LogicPkt
		clientErr, allErr := client.UnmarshalClient(data), all.Unmarshal(data)
		if allErr == nil && clientErr != nil {
			t.Fatalf("refused: %v", clientErr)
		}
		if clientErr != nil {
			return
		}
		if client.ChannelID != "" || client.Status != 0 || client.Meta != nil || client.App != "" || client.Account != "" || client.Device != "" || client.Channels != nil || client.Delivered != nil {
			t.Fatalf("taken from a client: %+v", client.Header)
		}
		if allErr == nil {
			equal(t, []any{all.Command, all.Sequence, all.Flag, all.Dest, all.Body}, []any{client.Command, client.Sequence, client.Flag, client.Dest, client.Body})
		}
	})
}

// FuzzRead: a stream gives the same packets as frames do, within its limit.
func FuzzRead(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var got any
		var err error
		r := bytes.NewReader(data)
		used := allocated(func() { got, err = wire.Read(r) })
		if limit := uint64(64*len(data) + 64<<10); used > limit {
			t.Fatalf("%d bytes allocated for %d of input", used, len(data))
		}
		if err != nil {
			return
		}
		n := len(data) - r.Len()
		if n > wire.DefaultMaxPacket {
			t.Fatalf("a packet of %d bytes is above the limit", n)
		}
		want, err := wire.Unmarshal(data[:n])
		if err != nil {
			t.Fatalf("Unmarshal refuses what Read took: %v", err)
		}
		equal(t, want, got)
	})
}

// FuzzHeader: the header codec and protobuf's agree on any bytes.
func FuzzHeader(f *testing.F) {
	h := stamped().Header
	f.Add(h.Append(nil))
	f.Add([]byte{0x3a, 0x04, 0x0a, 0x00, 0x18, 0x01})
	f.Add([]byte{0x9a, 0x01, 0x00, 0x9a, 0x01, 0x01, 'x'})
	f.Add([]byte{0xa2, 0x01, 0x00, 0xa2, 0x01, 0x04, 0x08, 0x2a, 0x18, 0x09})
	f.Fuzz(func(t *testing.T, data []byte) { sameDecode(t, data) })
}

type packet interface{ Append([]byte) []byte }

func equal(t *testing.T, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("-want +got:\n%s", d)
	}
}
