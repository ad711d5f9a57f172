package bench

import (
	"errors"
	"fmt"
	"time"
)

// GroupOptions are the load of Group: one group, some of whose members are on line and some of
// those send, in a closed loop or at a rate.
type GroupOptions struct {
	// URLs of gateways, ws://ADDRESS:PORT or tcp://ADDRESS:PORT, all of one kind; members are spread over them.
	URLs   []string
	Secret []byte
	// App is the tenant. Defaults to "default".
	App string
	// Members of the group, of which Online are connected (0: all) and Senders of those send.
	Members, Online, Senders int
	// Window is how many messages of a sender are under way at once: not both acknowledged and
	// delivered to all. With a Rate it does not count.
	Window int
	// Rate is messages a second of all senders together, sent whether or not the last ones have
	// arrived; 0: a closed loop.
	Rate float64
	// Size of a message's body in bytes, at least MinSize.
	Size             int
	Duration, Warmup time.Duration
	Processes        []Process
	// Progress is told now and then how many are logged in. May be nil.
	Progress func(connected int)
}

// maxSenders is how many can be told apart in a body of MinSize.
const maxSenders = 256

func (o GroupOptions) withDefaults() (GroupOptions, error) {
	if o.Online == 0 {
		o.Online = o.Members
	}
	switch {
	case len(o.URLs) == 0 || o.Duration <= 0:
		return o, errors.New("give a URL and a duration")
	case o.Senders < 1 || o.Online < 2 || o.Senders > o.Online || o.Online > o.Members:
		return o, fmt.Errorf("%d members, %d of them on line, %d of those sending: at least 2 must be on line and 1 send, and each number be within the one before",
			o.Members, o.Online, o.Senders)
	case o.Senders > maxSenders:
		return o, fmt.Errorf("at most %d members can send: a body has two digits for its sender", maxSenders)
	case o.Size < MinSize || (o.Window < 1 && o.Rate <= 0):
		return o, fmt.Errorf("give a size of at least %d, and a window of at least 1 or a rate", MinSize)
	}
	if o.App == "" {
		o.App = "default"
	}
	if o.Progress == nil {
		o.Progress = func(int) {}
	}
	return o, nil
}

// GroupResult is what Group measured. Counts of trouble are over the whole run; rates and CPU time are over the
// measured part, and latencies are of the messages that were sent in it, or due in an open loop.
type GroupResult struct {
	Members    int     `json:"members"`
	Online     int     `json:"online"`
	Senders    int     `json:"senders"`
	Window     int     `json:"window"`
	Rate       float64 `json:"rate"`
	Size       int     `json:"size"`
	Seconds    float64 `json:"seconds"`
	Messages   int64   `json:"messages"`   // acknowledged while measuring
	Deliveries int64   `json:"deliveries"` // while measuring

	Ack     Latency `json:"ack"`     // send → answer
	Deliver Latency `json:"deliver"` // send → each receiver

	// CPU is µs per delivery.
	CPU Cost `json:"cpu_us_per_delivery"`

	Sent       int64    `json:"sent"`
	Acked      int64    `json:"acked"`
	Lost       int64    `json:"lost"`       // deliveries of acknowledged messages that never came
	Doubled    int64    `json:"doubled"`    // deliveries that came again
	Reordered  int64    `json:"reordered"`  // deliveries after one with a larger seq
	Unanswered int64    `json:"unanswered"` // messages neither acknowledged nor refused
	Refused    Refusals `json:"refused,omitempty"`
	Dropped    int64    `json:"dropped"` // connections that ended
	Dropage    string   `json:"dropped_for,omitempty"`
}

// Err is why the run is not clean. It is nil if something was measured, nothing was lost, doubled, reordered or
// left unanswered, nobody was dropped, and nothing was refused, but for what was too much in an open loop.
func (r *GroupResult) Err() error {
	var trouble error
	if r.Lost+r.Doubled+r.Reordered+r.Unanswered+r.Dropped > 0 {
		trouble = errTrouble
	}
	return errors.Join(trouble, r.Refused.err(min(r.Messages, r.Deliveries), r.Rate > 0))
}

// Clean reports whether Err is nil.
func (r *GroupResult) Clean() bool { return r.Err() == nil }
