package wire_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/wire"
)

// talk is what a client's message looks like to the gateway.
func talk() *wire.LogicPkt {
	return &wire.LogicPkt{
		Header: wire.Header{Command: wire.CmdUserTalk, Sequence: 1234, Dest: "bob"},
		Body:   bytes.Repeat([]byte{'x'}, 64),
	}
}

// stamped is the same on the link to logic.
func stamped() *wire.LogicPkt {
	p := talk()
	p.ChannelID = "gw1-0000000001"
	p.Link = wire.Link{App: "demo", Account: "alice", Device: "phone"}
	return p
}

// What makes a header of bytes, or bytes of a header: a string is an allocation.
func TestCostOfCodec(t *testing.T) {
	fromClient, fromLink := talk().Append(nil), stamped().Append(nil)
	out, p := stamped(), new(wire.LogicPkt)
	buf := make([]byte, 0, 1024)
	for _, c := range []struct {
		name string
		want int
		f    func() error
	}{
		{"append", 0, func() error { buf = out.Append(buf[:0]); return nil }},
		{"unmarshal of a client's packet: dest", 1, func() error { return p.UnmarshalClient(fromClient) }},
		{"unmarshal of a link's packet: channel, dest, app, account, device", 5, func() error { return p.Unmarshal(fromLink) }},
	} {
		cost.Allocs(t, c.name, c.want, func() { must(t, c.f()) })
	}
}

// A client's header may hold thousands of empty metas and channels: nothing may be kept for them.
func TestCostOfWhatIsNotTrusted(t *testing.T) {
	h := wire.Header{Command: wire.CmdUserTalk, ChannelID: "forged", Status: 7, Link: wire.Link{App: "other", Account: "root"}}
	for range 5000 {
		h.Meta = append(h.Meta, wire.Meta{})
		h.Channels = append(h.Channels, "")
	}
	data := (&wire.LogicPkt{Header: h}).Append(nil)
	p := new(wire.LogicPkt)
	cost.Allocs(t, "what is not kept", 0, func() { must(t, p.UnmarshalClient(data)) })
	diff(t, "header", wire.Header{Command: wire.CmdUserTalk}, p.Header)
}

// Read must not believe a length: a peer that sends 12 bytes gets no 16 MiB.
func TestReadAllocatesWhatItReads(t *testing.T) {
	for _, head := range [][]byte{
		{0xc3, 0x11, 0xa3, 0x65, 0x00, 0xff, 0xff, 0x00},
		{0xc3, 0x11, 0xa3, 0x65, 0, 0, 0, 0, 0x00, 0xff, 0xff, 0x00},
	} {
		got := allocated(func() {
			if _, err := wire.ReadLimit(bytes.NewReader(head), 1<<24); err == nil {
				t.Error("no error")
			}
		})
		if got > 64<<10 {
			t.Errorf("%x: %d bytes allocated for %d bytes of input", head, got, len(head))
		}
	}
}

// A large section arrives in pieces and whole.
func TestReadLarge(t *testing.T) {
	p := &wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk}, Body: make([]byte, 1<<20)}
	for i := range p.Body {
		p.Body[i] = byte(i * 7)
	}
	data := p.Append(nil)
	got, err := wire.ReadLimit(iotestHalf{bytes.NewReader(data)}, len(data))
	must(t, err)
	diff(t, "packet", p, got)
	_, err = wire.ReadLimit(bytes.NewReader(data), len(data)-1)
	wantError(t, "too_large", err)
	_, err = wire.ReadLimit(bytes.NewReader(data[:len(data)-1]), len(data))
	wantError(t, "truncated", err)
}

// iotestHalf gives half of what was asked for.
type iotestHalf struct{ r io.Reader }

func (h iotestHalf) Read(p []byte) (int, error) { return h.r.Read(p[:(len(p)+1)/2]) }

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkAppend(b *testing.B) {
	p, buf := stamped(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.Append(buf[:0])
	}
}

func BenchmarkUnmarshalClient(b *testing.B) {
	data, p := talk().Append(nil), new(wire.LogicPkt)
	b.ReportAllocs()
	for b.Loop() {
		_ = p.UnmarshalClient(data)
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	data, p := stamped().Append(nil), new(wire.LogicPkt)
	b.ReportAllocs()
	for b.Loop() {
		_ = p.Unmarshal(data)
	}
}

// BenchmarkAppendPush is one push for many channels of a gateway.
func BenchmarkAppendPush(b *testing.B) {
	p, buf := stamped(), make([]byte, 0, 64<<10)
	for i := range 1000 {
		p.Channels = append(p.Channels, "gw1-"+string(binary.BigEndian.AppendUint32([]byte("0000"), uint32(i%128))))
	}
	b.ReportAllocs()
	for b.Loop() {
		buf = p.Append(buf[:0])
	}
}
