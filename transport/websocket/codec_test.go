package websocket

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport/transporttest"
)

// Frames from RFC 6455, section 5.7.
func TestExamplesOfTheRFC(t *testing.T) {
	f, n, err := clientCodec{}.Parse([]byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}, 100)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Equal(t, im.OpText, f.Op)
	require.Equal(t, "Hello", string(f.Payload))

	f, n, err = serverCodec{}.Parse([]byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}, 100)
	require.NoError(t, err)
	require.Equal(t, 11, n)
	require.Equal(t, "Hello", string(f.Payload))

	f, _, err = clientCodec{}.Parse([]byte{0x01, 0x03, 0x48, 0x65, 0x6c}, 100)
	require.NoError(t, err)
	require.True(t, f.More)

	require.Equal(t, []byte{0x82, 0x7e, 0x01, 0x00}, serverCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 256))[:4])
	require.Equal(t, []byte{0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0}, serverCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 65536))[:10])
}

// Both directions, all lengths around the borders of the header and of the cipher's blocks.
func TestRoundTrip(t *testing.T) {
	sizes := []int{65535, 65536, 70000}
	for i := range 300 {
		sizes = append(sizes, i)
	}
	for _, size := range sizes {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(i * 31)
		}
		b := clientCodec{}.AppendFrame([]byte("before"), im.OpBinary, payload)[len("before"):]
		f, n, err := serverCodec{}.Parse(b, size)
		require.NoError(t, err)
		require.Equal(t, len(b), n)
		require.True(t, bytes.Equal(payload, f.Payload), "size %d", size)

		b = serverCodec{}.AppendFrame(nil, im.OpBinary, payload)
		f, n, err = clientCodec{}.Parse(b, size)
		require.NoError(t, err)
		require.Equal(t, len(b), n)
		require.True(t, bytes.Equal(payload, f.Payload), "size %d", size)
	}
}

// The wrong direction is refused: masking is not optional.
func TestMasking(t *testing.T) {
	_, _, err := serverCodec{}.Parse(serverCodec{}.AppendFrame(nil, im.OpBinary, nil), 1)
	require.ErrorIs(t, err, errMask)
	_, _, err = clientCodec{}.Parse(clientCodec{}.AppendFrame(nil, im.OpBinary, nil), 1)
	require.ErrorIs(t, err, errNoMask)
}

func FuzzParse(f *testing.F) {
	for _, b := range [][]byte{
		nil,
		{0x82},
		{0x82, 0x80},
		{0x82, 0xfe, 0, 126},
		{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0},
		{0x88, 0x82, 1, 2, 3, 4, 3, 0xe8},
		{0x02, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0},
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		clientCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 300)),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		transporttest.CheckParse(t, serverCodec{}, b)
		transporttest.CheckParse(t, clientCodec{}, b)
		frame, n, err := serverCodec{}.Parse(bytes.Clone(b), 1<<10)
		if err != nil || n > len(b) {
			return
		}
		// What was parsed says what it said.
		again, _, err := clientCodec{}.Parse(serverCodec{}.AppendFrame(nil, frame.Op, frame.Payload), 1<<10)
		if err != nil || again.Op != frame.Op || !bytes.Equal(again.Payload, frame.Payload) {
			t.Fatalf("%v %v %v", frame, again, err)
		}
	})
}

func TestCostOfParse(t *testing.T) {
	b := clientCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 200))
	transporttest.CheckParseAllocs(t, serverCodec{}, b)
	transporttest.CheckParseAllocs(t, clientCodec{}, serverCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 200)))
}

func BenchmarkParse(b *testing.B) {
	frame := clientCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 150))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := (serverCodec{}).Parse(frame, 1<<10); err != nil {
			b.Fatal(err)
		}
	}
}
