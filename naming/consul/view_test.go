package consul

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hermod-im/hermod/naming"
)

func TestJudge(t *testing.T) {
	check := func(id, status, output string) *api.HealthCheck {
		return &api.HealthCheck{CheckID: id, Status: status, Output: output}
	}
	node := check(nodeCheck, api.HealthPassing, "")
	tests := []struct {
		name   string
		state  naming.State
		checks api.HealthChecks
		want   verdict
	}{
		{"renewed", naming.StateReady, api.HealthChecks{node, check("alive:1", api.HealthPassing, "")}, live},
		{"joining", naming.StateJoining, api.HealthChecks{
			node, check("alive:1", api.HealthPassing, ""), check("ready:1", api.HealthCritical, ""),
		}, live},
		{"expired", naming.StateReady, api.HealthChecks{node, check("alive:1", api.HealthCritical, "TTL expired")}, expired},
		{"expired with output", naming.StateReady, api.HealthChecks{
			check("alive:1", api.HealthCritical, "TTL expired (last output before timeout follows): x"),
		}, expired},
		{"agent restarted", naming.StateReady, api.HealthChecks{node, check("alive:1", api.HealthCritical, "")}, doubtful},
		{"agent unreachable", naming.StateReady, api.HealthChecks{
			check("alive:1", api.HealthPassing, ""), check(nodeCheck, api.HealthCritical, ""),
		}, doubtful},
		{"tombstone", stateGone, api.HealthChecks{node, check("alive:1", api.HealthPassing, "")}, gone},
		{"another's checks", naming.StateReady, api.HealthChecks{node, check("alive:2", api.HealthPassing, "")}, doubtful},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c Client
			e := &api.ServiceEntry{
				Service: &api.AgentService{ID: "1", Meta: map[string]string{metaState: string(test.state)}},
				Checks:  test.checks,
			}
			if got := c.judge(e); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestView(t *testing.T) {
	const grace = 15 * time.Second
	type step struct {
		at        int    // seconds
		answer    string // "a" live, "a?" doubtful, "a-" expired, "a!" gone; "interrupted"
		want      string // the list
		unchanged bool
		wait      int // seconds
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the first answer counts even if empty", []step{{at: 0, answer: "", want: ""}, {at: 1, answer: "", want: "", unchanged: true}}},
		{"come and go", []step{
			{at: 0, answer: "b a", want: "a b"},
			{at: 1, answer: "a b c", want: "a b c"},
			{at: 2, answer: "a b! c", want: "a c"},
			{at: 3, answer: "a c", want: "a c", unchanged: true},
			{at: 4, answer: "a- c", want: "c"},
			{at: 5, answer: "a- c-", want: ""},
		}},
		{"doubtful and unknown is not told", []step{{at: 0, answer: "a b?", want: "a"}, {at: 1, answer: "a b", want: "a b"}}},
		{"lost and found again", []step{
			{at: 0, answer: "a b", want: "a b"},
			{at: 1, answer: "", want: "a b", unchanged: true, wait: 15},
			{at: 5, answer: "a", want: "a b", unchanged: true, wait: 11},
			{at: 6, answer: "a b", want: "a b", unchanged: true},
			{at: 60, answer: "a b?", want: "a b", unchanged: true, wait: 15},
		}},
		{"lost for the grace", []step{
			{at: 0, answer: "a b", want: "a b"},
			{at: 1, answer: "a", want: "a b", unchanged: true, wait: 15},
			{at: 15, answer: "a b?", want: "a b", unchanged: true, wait: 1},
			{at: 16, answer: "a", want: "a"},
		}},
		{"an outage starts the grace again", []step{
			{at: 0, answer: "a b", want: "a b"},
			{at: 1, answer: "a", want: "a b", unchanged: true, wait: 15},
			{at: 90, answer: "interrupted"},
			{at: 91, answer: "a", want: "a b", unchanged: true, wait: 15},
			{at: 106, answer: "a", want: "a"},
		}},
		{"expired after an outage", []step{
			{at: 0, answer: "a b c", want: "a b c"},
			{at: 1, answer: "interrupted"},
			{at: 60, answer: "a b- c!", want: "a b", unchanged: false, wait: 15},
			{at: 62, answer: "a- b", want: "a b", unchanged: true, wait: 15},
			{at: 63, answer: "a b", want: "a b", unchanged: true},
			{at: 75, answer: "a- b", want: "b"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := newView(grace)
			begin := time.Now()
			for n, s := range test.steps {
				if s.answer == "interrupted" {
					v.interrupted()
					continue
				}
				changed, wait := v.update(sightings(s.answer), begin.Add(time.Duration(s.at)*time.Second))
				var ids []string
				for _, i := range v.list() {
					ids = append(ids, i.ID)
				}
				if got := strings.Join(ids, " "); got != s.want || changed == s.unchanged || wait != time.Duration(s.wait)*time.Second {
					t.Fatalf("step %d: list %q changed %v wait %v, want %+v", n, got, changed, wait, s)
				}
			}
		})
	}
}

func TestViewTellsOfChangedInstances(t *testing.T) {
	v := newView(time.Second)
	answer := sightings("a b")
	v.update(answer, time.Now())
	answer[1].State = naming.StateDraining
	if changed, _ := v.update(slices.Clone(answer), time.Now()); !changed || v.list()[1].State != naming.StateDraining {
		t.Errorf("changed %v, list %v", changed, v.list())
	}
}

// sightings reads the notation of TestView.
func sightings(answer string) []sighting {
	var out []sighting
	for _, word := range strings.Fields(answer) {
		s := sighting{verdict: live}
		switch {
		case strings.HasSuffix(word, "?"):
			s.verdict = doubtful
		case strings.HasSuffix(word, "-"):
			s.verdict = expired
		case strings.HasSuffix(word, "!"):
			s.verdict = gone
		}
		s.Instance = naming.Instance{ID: strings.TrimRight(word, "?-!"), State: naming.StateReady}
		out = append(out, s)
	}
	return out
}

func TestNextIndex(t *testing.T) {
	for _, test := range []struct{ last, got, want uint64 }{
		{0, 5, 5},
		{5, 5, 5},
		{5, 9, 9},
		{9, 5, 0}, // went back: Consul lost its state
		{0, 0, 1}, // 0 would not wait
	} {
		if next := nextIndex(test.last, test.got); next != test.want {
			t.Errorf("nextIndex(%d, %d) = %d, want %d", test.last, test.got, next, test.want)
		}
	}
}
