package consul

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/naming"
)

// verdict is what an answer of Consul says about one instance.
type verdict int

const (
	// doubtful: not there, or without a lease for a reason that may be Consul's: its agent has just
	// restarted, or is out of its servers' sight.
	doubtful verdict = iota
	// live: its lease runs.
	live
	// expired: its lease ran out under an agent that was there to see it.
	expired
	// gone: it deregistered.
	gone
)

// expiredOutput begins the output of a check whose time to live Consul saw running out. A check
// that is critical because the agent has restarted has another.
const expiredOutput = "TTL expired"

// nodeCheck is Consul's own check of the machine: critical when its agent cannot be reached.
const nodeCheck = "serfHealth"

// judge weighs one entry. "ready" does not count: all states are live.
func (c *Client) judge(e *api.ServiceEntry) verdict {
	if naming.State(e.Service.Meta[metaState]) == stateGone {
		return gone
	}
	v := doubtful // without an alive check
	for _, check := range e.Checks {
		switch {
		case check.CheckID == nodeCheck && check.Status == api.HealthCritical:
			return doubtful
		case check.CheckID != aliveCheck(e.Service.ID):
		case check.Status == api.HealthPassing:
			v = live
		case strings.HasPrefix(check.Output, expiredOutput):
			v = expired
		}
	}
	return v
}

// view is what one subscription knows of its service: what Consul last said, less what it may have
// said by mistake.
type view struct {
	grace time.Duration
	peers map[string]*peer
	told  bool // the subscriber has been called

	gap     bool      // there has been no answer since an interruption
	resumed time.Time // the first answer after the last interruption; zero before any
}

// peer is an instance that the subscriber knows.
type peer struct {
	naming.Instance
	lost time.Time // since when Consul's answers lack it; zero while they do not
}

func newView(grace time.Duration) *view {
	return &view{grace: grace, peers: map[string]*peer{}}
}

// sighting is an instance in an answer, and what the answer says about it.
type sighting struct {
	naming.Instance
	verdict
}

// update takes an answer of Consul. changed says whether the subscriber is to hear of it, and wait
// after which time an instance that is missing will be given up if no other answer comes; 0: never.
func (v *view) update(answer []sighting, now time.Time) (changed bool, wait time.Duration) {
	changed = !v.told
	v.told = true
	if v.gap {
		v.gap, v.resumed = false, now
	}
	found := map[string]sighting{}
	for _, s := range answer {
		found[s.ID] = s
		if p := v.peers[s.ID]; s.verdict == live && (p == nil || !p.Equal(s.Instance)) {
			v.peers[s.ID] = &peer{Instance: s.Instance}
			changed = true
		}
	}
	for id, p := range v.peers {
		switch s := found[id]; {
		case s.verdict == live:
			p.lost = time.Time{}
		case s.verdict == gone, s.verdict == expired && now.Sub(v.resumed) >= v.grace,
			!p.lost.IsZero() && now.Sub(p.lost) >= v.grace:
			delete(v.peers, id)
			changed = true
		default:
			if p.lost.IsZero() {
				p.lost = now
			}
			if left := v.grace - now.Sub(p.lost); wait == 0 || left < wait {
				wait = left
			}
		}
	}
	return changed, wait
}

// interrupted says that Consul's answers have a gap: what is missing afterwards, or expired because
// the agent took long to start, has had no chance to come back yet.
func (v *view) interrupted() {
	v.gap = true
	for _, p := range v.peers {
		p.lost = time.Time{}
	}
}

// list is what the subscriber should know, sorted by ID.
func (v *view) list() []naming.Instance {
	list := make([]naming.Instance, 0, len(v.peers))
	for _, p := range v.peers {
		list = append(list, p.Clone())
	}
	sortByID(list)
	return slices.Clip(list)
}
