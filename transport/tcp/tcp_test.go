package tcp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport/transporttest"
)

func TestFraming(t *testing.T) {
	b := Codec{}.AppendFrame(nil, im.OpBinary, []byte("abc"))
	require.Equal(t, []byte{2, 0, 0, 0, 3, 'a', 'b', 'c'}, b)
	f, n, err := Codec{}.Parse(append(b, "more"...), 3)
	require.NoError(t, err)
	require.Equal(t, 8, n)
	require.Equal(t, im.OpBinary, f.Op)
	require.Equal(t, "abc", string(f.Payload))
	require.Equal(t, 3, cap(f.Payload))

	_, _, err = Codec{}.Parse(b, 2)
	require.ErrorIs(t, err, im.ErrFrameTooLarge)
}

func FuzzParse(f *testing.F) {
	for _, b := range [][]byte{
		nil,
		{2},
		{2, 0, 0, 0, 0},
		{2, 0, 0, 4, 1},
		{9, 0, 0, 0, 126},
		{2, 0xff, 0xff, 0xff, 0xff},
		{5, 0, 0, 0, 0},
		Codec{}.AppendFrame(nil, im.OpBinary, make([]byte, 300)),
		Codec{}.AppendFrame(nil, im.OpClose, []byte{3, 0xe8}),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		transporttest.CheckParse(t, Codec{}, b)
		frame, n, err := Codec{}.Parse(b, 1<<10)
		if err != nil || n > len(b) {
			return
		}
		if again := (Codec{}).AppendFrame(nil, frame.Op, frame.Payload); !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x framed as %x", b[:n], again)
		}
	})
}

func TestCostOfParse(t *testing.T) {
	transporttest.CheckParseAllocs(t, Codec{}, Codec{}.AppendFrame(nil, im.OpBinary, make([]byte, 200)))
}

func BenchmarkParse(b *testing.B) {
	frame := Codec{}.AppendFrame(nil, im.OpBinary, make([]byte, 150))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := (Codec{}).Parse(frame, 1<<10); err != nil {
			b.Fatal(err)
		}
	}
}
