package oldclient

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A strict client is only worth something if it is: each of these must be an error.
func TestStrictness(t *testing.T) {
	talk := func(flag, status int, body ...byte) *packet {
		return &packet{command: "chat.user.talk", sequence: 1, flag: flag, status: status, body: body}
	}
	var named message
	named.string(1, "x")
	for name, frames := range map[string][]string{
		"flag of a request":            {string(talk(flagRequest, 0).marshal())},
		"unknown flag":                 {string(talk(3, 0).marshal())},
		"another sequence":             {string((&packet{command: "chat.user.talk", sequence: 2, flag: flagResponse}).marshal())},
		"another command":              {string((&packet{command: "chat.talk.ack", sequence: 1, flag: flagResponse}).marshal())},
		"unknown status":               {string(talk(flagResponse, 102, named...).marshal())},
		"a refusal without a message":  {string(talk(flagResponse, 101).marshal())},
		"unknown push":                 {string((&packet{command: "sync.hint", flag: flagPush}).marshal())},
		"group push without a group":   {string((&packet{command: "chat.group.talk", flag: flagPush}).marshal())},
		"unknown field":                {string(talk(flagResponse, 0, 7<<3, 1).marshal())},
		"field of another type":        {string(talk(flagResponse, 0, 1<<3|typeBytes, 0).marshal())},
		"pong without a ping":          {"\xc3\x15\xa7\x65\x00\x02\x00\x00"},
		"no magic":                     {"hello"},
		"a byte too many":              {string(talk(flagResponse, 0).marshal()) + "x"},
		"a header field of the inside": {"\xc3\x11\xa3\x65\x00\x00\x00\x04\x82\x01\x01x\x00\x00\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			err := answered(t, frames...)
			var against *ProtocolError
			if !errors.As(err, &against) {
				t.Errorf("taken for %v", err)
			}
		})
	}
	// An extension is passed over.
	sent := talk(flagResponse, 0, 1<<3, 5, 2<<3, 6, 0x80, 1, 9, 0x8a, 1, 1, 'c')
	if err := answered(t, string(sent.marshal())); err != nil {
		t.Error(err)
	}
}

// answered is what Talk says when a server answers with these frames.
func answered(t *testing.T, frames ...string) error {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close() //nolint:errcheck // a pipe
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer far.Close() //nolint:errcheck // a pipe
		server := &conn{Conn: far, in: bufio.NewReader(far)}
		if _, err := server.read(); err != nil {
			return
		}
		for _, f := range frames {
			if server.write(opBinary, []byte(f)) != nil {
				return
			}
		}
	}()
	c := &Client{Timeout: 10 * time.Second, conn: &conn{Conn: near, in: bufio.NewReader(near)}}
	_, err := c.Talk("bob", "x")
	_ = near.Close()
	<-served
	return err
}

// What the golden vectors say of a header, this client's own decoder must say too.
func TestGoldenVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.FromSlash("../../wire/testdata/vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Logic []struct {
			Name, Hex string
			BodyHex   string `json:"body_hex"`
			Header    map[string]any
		}
	}
	if err := json.Unmarshal(data, &v); err != nil || len(v.Logic) == 0 {
		t.Fatalf("%d vectors, %v", len(v.Logic), err)
	}
	for _, x := range v.Logic {
		b, err := hex.DecodeString(x.Hex)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePacket(b)
		if _, inside := x.Header["account"]; inside {
			if err == nil || !strings.Contains(err.Error(), "unknown field 16") {
				t.Errorf("%s: %v", x.Name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", x.Name, err)
			continue
		}
		command, _ := x.Header["command"].(string)
		dest, _ := x.Header["dest"].(string)
		sequence, _ := x.Header["sequence"].(float64)
		if p.command != command || p.dest != dest || p.sequence != uint32(sequence) || hex.EncodeToString(p.body) != x.BodyHex {
			t.Errorf("%s: decoded as %+v", x.Name, p)
		}
		if x.Header["meta"] == nil && hex.EncodeToString(p.marshal()) != x.Hex {
			t.Errorf("%s: encoded as %x", x.Name, p.marshal())
		}
	}
}
