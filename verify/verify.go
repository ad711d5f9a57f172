package verify

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Options of a run. One of URLs and Router is needed, and Secret; the rest has defaults.
type Options struct {
	// URLs of gateways: ws:// and tcp://. With Router they are where the clients go that use no router.
	URLs []string
	// Router is the base URL of the router, http://. May be empty.
	Router string
	// Secret signs the accounts' tokens: that of the cluster.
	Secret []byte
	// App is the tenant. Defaults to "default". The accounts are new ones in every run.
	App string
	// Accounts, Groups and Devices of each account. Default to 200, 50 and 3.
	Accounts, Groups, Devices int
	// OldClients is the share of accounts on which a client of the fixed protocol is on line. 0 is none.
	OldClients float64
	// Rate is messages sent per second by all together. Defaults to 200.
	Rate float64
	// Hostile is how many misbehave. The zero value is nobody.
	Hostile Hostile
	// Seed of every random choice. 0 takes one from the clock; Run.Seed says which.
	Seed uint64
	// DSN of the cluster's MySQL database, read to compare. Empty: what is stored is asked for with chat.history.
	DSN string
	// Log says what happens, in lines without an end. May be nil.
	Log func(format string, args ...any)
}

// Hostile are shares of the accounts, 0 to 1, that have one more device, which misbehaves. While a
// row settles they behave, and must have everything as all others do.
type Hostile struct {
	// Drop: loses its connection at any byte, every few seconds, and reconnects elsewhere.
	Drop float64
	// Resend: sends everything again, after each reconnection and in between.
	Resend float64
	// Deaf: reads nothing for a while.
	Deaf float64
	// Flap: connects, logs in and hangs up 10 times a second.
	Flap float64
}

// Run is a workload under way.
type Run struct {
	// Seed is that of the run.
	Seed uint64
}

// Start connects everybody, creates the groups and starts sending. It returns when all are on line.
// The run ends with Finish, or with ctx.
func Start(ctx context.Context, o Options) (*Run, error) {
	return nil, errors.ErrUnsupported
}

// Begin gives the present row its name: a fault is about to happen. A row counts everything since
// the one before was settled.
func (r *Run) Begin(name string) {}

// Healed says that the fault is over: convergence is measured from here.
func (r *Run) Healed() {}

// Settle pauses sending and misbehaviour, waits until every device has everything that is stored,
// judges, and goes on. When ctx ends before (a minute, if it has no end), what is missing is lost. The error says that
// the row could not be judged, because what is stored could not be learned.
func (r *Run) Settle(ctx context.Context) (Row, error) {
	return Row{}, errors.ErrUnsupported
}

// Finish is Settle for good: a fresh device of every account syncs everything from nothing, and all
// that was ever answered must be stored. Nothing of the run is left on line.
func (r *Run) Finish(ctx context.Context) (Report, error) {
	return Report{}, errors.ErrUnsupported
}

// Row is what was seen from one Settle to the next. The numbers under "trouble" must be 0.
type Row struct {
	Name string `json:"name"`

	Sent   int64 `json:"sent"`   // messages, however often each was sent
	Acked  int64 `json:"acked"`  // answered with success
	Live   int64 `json:"live"`   // deliveries to devices by push
	Synced int64 `json:"synced"` // deliveries to devices by sync or offline index

	// Trouble.
	Lost         int64 `json:"lost"`          // stored, but a device of a member never showed it
	Doubled      int64 `json:"doubled"`       // shown twice by a device
	Reordered    int64 `json:"reordered"`     // shown after a later one of its conversation, or with a smaller id than an earlier one
	Gaps         int64 `json:"gaps"`          // seqs of a conversation that no message has
	TwoIDs       int64 `json:"two_ids"`       // one client_id with two ids or seqs, or one place with two messages
	NotStored    int64 `json:"not_stored"`    // answered with success, but not stored
	WrongReaders int64 `json:"wrong_readers"` // shown to who may not read it, or not as it was sent
	Errors       int64 `json:"errors"`        // final outcomes, of sends and of clients, that are errors, or none

	// Allowed.
	Unanswered int64 `json:"unanswered"` // stored, but never answered
	Unknown    int64 `json:"unknown"`    // sends of old clients, which have no client_id, that ended with their connection
	Repeated   int64 `json:"repeated"`   // repetitions that a device had to drop
	Overtaken  int64 `json:"overtaken"`  // shown by old clients, which have no seq, after a later one

	// Converge is from Healed until every device had everything that was stored by then; 0 without Healed.
	Converge time.Duration `json:"converge"`
	// Converged is false if Healed was called and that never happened.
	Converged bool `json:"converged"`
	// Examples are some of the troubles, in words.
	Examples []string `json:"examples,omitempty"`
}

// Err names the row's troubles, or is nil.
func (r Row) Err() error {
	return nil
}

// Report is all rows of a run, the last of which is Finish's.
type Report struct {
	Seed uint64 `json:"seed"`
	Rows []Row  `json:"rows"`
}

// Table is the report in Markdown, a row a line.
func (r Report) Table() string { return fmt.Sprint(r.Rows) }

// Err names the troubles of all rows, or is nil.
func (r Report) Err() error {
	var errs []error
	for _, row := range r.Rows {
		errs = append(errs, row.Err())
	}
	return errors.Join(errs...)
}
