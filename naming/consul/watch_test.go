package consul_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/consul"
	"github.com/hermod-im/hermod/naming/namingtest"
)

// script is a Consul that takes everything, answers questions for a service one by one as it was
// told, and holds those after the last until they are given up.
type script struct {
	answers []answer
	asked   chan string // the index of each question, "" for none
	times   chan time.Time
}

type answer struct {
	status int
	header map[string]string
	ids    []string // live instances
}

// serve runs the script and returns its address.
func (s *script) serve(t *testing.T) string {
	t.Helper()
	s.asked, s.times = make(chan string, 100), make(chan time.Time, 100)
	next := make(chan answer, len(s.answers))
	for _, a := range s.answers {
		next <- a
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			return
		}
		s.asked <- r.URL.Query().Get("index")
		s.times <- time.Now()
		select {
		case a := <-next:
			a.write(w)
		default:
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("X-Consul-LastContact", "0") // without it the client reads none of the others
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	separator := "["
	for _, id := range a.ids {
		fmt.Fprintf(w, `%s{"Service":{"ID":%q,"Service":"s","Address":"127.0.0.1","Port":1,"Meta":{"hermod-state":"ready"}},
			"Checks":[{"CheckID":"alive:%s","Status":"passing"},{"CheckID":"ready:%s","Status":"passing"}]}`, separator, id, id, id)
		separator = ","
	}
	if separator == "[" {
		fmt.Fprint(w, "[")
	}
	fmt.Fprint(w, "]")
}

func list(index string, ids ...string) answer {
	return answer{status: http.StatusOK, header: map[string]string{"X-Consul-Index": index, "X-Consul-LastContact": "0"}, ids: ids}
}

// The agent tells Consul's servers in its own time: only when they have it may a node that registered
// rely on being seen (I7).
func TestRegisterAndDeregisterWaitForTheServers(t *testing.T) {
	s := &script{answers: []answer{list("3", "other"), list("4", "a", "other"), list("4", "a", "other"), list("5", "other")}}
	c, err := consul.New(consul.Options{Address: s.serve(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	i := naming.Instance{ID: "a", Service: "s", Address: "127.0.0.1:1", State: naming.StateReady}
	register(t, c, i)
	s.wantAsked(t, "", "3")
	if err := c.Deregister(t.Context(), i.ID); err != nil {
		t.Fatal(err)
	}
	s.wantAsked(t, "", "4")
}

// watchScript subscribes to a script and returns what the subscriber is told.
func watchScript(t *testing.T, s *script) *namingtest.Recorder {
	t.Helper()
	c, err := consul.New(consul.Options{Address: s.serve(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return subscribe(t, c, "s")
}

func (s *script) wantAsked(t *testing.T, indexes ...string) {
	t.Helper()
	for n, want := range indexes {
		select {
		case got := <-s.asked:
			if got != want {
				t.Fatalf("question %d waits for index %q, want %q", n, got, want)
			}
		case <-time.After(wait):
			t.Fatalf("no question %d, want one that waits for index %q", n, want)
		}
	}
}

func TestWatchWaitsForWhatIsNew(t *testing.T) {
	s := &script{answers: []answer{list("7", "a"), list("7", "a"), list("9", "a", "b")}}
	r := watchScript(t, s)
	s.wantAsked(t, "", "7", "7", "9")
	r.Await(t, wait, "a", "b")
	if n := len(r.Calls()); n != 2 {
		t.Errorf("told %d times, want twice", n)
	}
}

// A question with index 0 is answered at once: asking it again and again would spin.
func TestWatchNeverAsksForIndexZero(t *testing.T) {
	s := &script{answers: []answer{list("0", "a"), list("0", "a")}}
	watchScript(t, s)
	s.wantAsked(t, "", "1", "")
}

// An index that goes back is that of another history: waiting for the old one could take for ever.
func TestWatchStartsAgainWhenTheIndexGoesBack(t *testing.T) {
	s := &script{answers: []answer{list("90", "a", "b"), list("5"), list("6", "b"), list("8", "a", "b", "c")}}
	r := watchScript(t, s)
	s.wantAsked(t, "", "90", "", "6", "8")
	r.Await(t, wait, "a", "b", "c")
	if n := len(r.Calls()); n != 2 {
		t.Errorf("told %d times, want twice: the registry had only forgotten", n)
	}
}

func TestWatchBacksOff(t *testing.T) {
	failure := answer{status: http.StatusInternalServerError}
	s := &script{answers: []answer{list("7", "a"), failure, failure, failure, failure, list("8", "b")}}
	r := watchScript(t, s)
	s.wantAsked(t, "", "7", "", "", "", "", "8")
	r.Await(t, wait, "a", "b") // a is lost, not gone
	<-s.times
	begin := <-s.times
	for range 4 {
		<-s.times
	}
	// 100, 200, 400 and 800 ms, each from half to one and a half of that.
	if took := time.Since(begin); took < 750*time.Millisecond {
		t.Errorf("four failures and their repetition took only %v", took)
	}
}

func TestFilteredAnswerIsAnError(t *testing.T) {
	filtered := list("8")
	filtered.header["X-Consul-Results-Filtered-By-Acls"] = "true"
	s := &script{answers: []answer{list("7", "a"), filtered, list("9", "a", "b")}}
	r := watchScript(t, s)
	r.Await(t, wait, "a", "b")
	if n := len(r.Calls()); n != 2 {
		t.Errorf("told %d times, want twice", n)
	}

	s = &script{answers: []answer{filtered}}
	c, err := consul.New(consul.Options{Address: s.serve(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if found, err := c.Find(t.Context(), naming.ServiceLogic); err == nil {
		t.Errorf("found %v, want an error", found)
	}
}
