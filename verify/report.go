package verify

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hermod-im/hermod/verify/internal/oracle"
)

// Row is what was seen from one Settle to the next. The troubles must be 0.
type Row struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`

	Sent   int64 `json:"sent"`   // messages, however often each was sent
	Acked  int64 `json:"acked"`  // answered with success
	Live   int64 `json:"live"`   // shown by devices that were pushed them
	Synced int64 `json:"synced"` // shown by devices that had asked for them

	// Troubles.

	Lost         int64 `json:"lost"`          // stored, but a device of a member has not shown it
	Doubled      int64 `json:"doubled"`       // shown twice by a device
	Reordered    int64 `json:"reordered"`     // shown after a later one of its conversation; or ids that do not grow with seq
	Gaps         int64 `json:"gaps"`          // seqs of a conversation that no message has
	TwoIDs       int64 `json:"two_ids"`       // a client_id with two ids or seqs, or a seq with two messages
	NotStored    int64 `json:"not_stored"`    // answered with success or shown, but not stored
	WrongReaders int64 `json:"wrong_readers"` // shown to who may not read it, or not as it was sent
	Errors       int64 `json:"errors"`        // sends whose final outcome is an error, or that have none; clients that gave up; packets against the protocol

	// Allowed.

	Unanswered int64 `json:"unanswered"` // stored, but never answered
	Unknown    int64 `json:"unknown"`    // sends of old clients, which have no client_id, whose answer was lost with the connection
	Repeated   int64 `json:"repeated"`   // repetitions that plain and old devices had to drop
	Overtaken  int64 `json:"overtaken"`  // shown by an old client after a later one: it sorts by message id

	// Healed was called, and Converge later every device that stays on line had everything that was
	// stored by then; if Converged is false, that never was.
	Healed    bool          `json:"healed"`
	Converged bool          `json:"converged"`
	Converge  time.Duration `json:"converge_ns"`

	// Unjudged says why the row could not be compared with what is stored.
	Unjudged string `json:"unjudged,omitempty"`
	// Examples are some of the troubles, in words.
	Examples []string `json:"examples,omitempty"`
}

func newRow(name string, c oracle.Counts, examples []string) Row {
	return Row{
		Name: name, Examples: examples,
		Sent: c.Sent, Acked: c.Acked, Live: c.Live, Synced: c.Synced,
		Lost: c.Lost, Doubled: c.Doubled, Reordered: c.Reordered, Gaps: c.Gaps, TwoIDs: c.TwoIDs, NotStored: c.NotStored,
		WrongReaders: c.WrongReaders, Errors: c.Errors,
		Unanswered: c.Unanswered, Unknown: c.Unknown, Repeated: c.Repeated, Overtaken: c.Overtaken,
	}
}

// column is a number of the table.
type column struct {
	name    string
	of      func(r *Row) int64
	trouble bool
}

var columns = []column{
	{"sent", func(r *Row) int64 { return r.Sent }, false},
	{"acked", func(r *Row) int64 { return r.Acked }, false},
	{"live", func(r *Row) int64 { return r.Live }, false},
	{"synced", func(r *Row) int64 { return r.Synced }, false},
	{"lost", func(r *Row) int64 { return r.Lost }, true},
	{"doubled", func(r *Row) int64 { return r.Doubled }, true},
	{"reordered", func(r *Row) int64 { return r.Reordered }, true},
	{"gaps", func(r *Row) int64 { return r.Gaps }, true},
	{"two ids", func(r *Row) int64 { return r.TwoIDs }, true},
	{"not stored", func(r *Row) int64 { return r.NotStored }, true},
	{"wrong readers", func(r *Row) int64 { return r.WrongReaders }, true},
	{"errors", func(r *Row) int64 { return r.Errors }, true},
	{"unanswered", func(r *Row) int64 { return r.Unanswered }, false},
	{"unknown", func(r *Row) int64 { return r.Unknown }, false},
}

// Err names the row's troubles, or is nil.
func (r Row) Err() error {
	var troubles []string
	for _, c := range columns {
		if n := c.of(&r); c.trouble && n != 0 {
			troubles = append(troubles, fmt.Sprintf("%d %s", n, c.name))
		}
	}
	if r.Healed && !r.Converged {
		troubles = append(troubles, "never converged")
	}
	if r.Unjudged != "" {
		troubles = append(troubles, r.Unjudged)
	}
	if len(troubles) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s", r.Name, strings.Join(append(troubles, r.Examples...), "\n\t"))
}

func (r Row) converge() string {
	switch {
	case !r.Healed:
		return "–"
	case !r.Converged:
		return "never"
	default:
		return fmt.Sprintf("%.1f s", r.Converge.Seconds())
	}
}

// Report is all rows of a run, the last of which is Finish's.
type Report struct {
	Run  string `json:"run"`
	Seed uint64 `json:"seed"`
	Rows []Row  `json:"rows"`
}

// Table is the report in Markdown, a row a line.
func (r Report) Table() string {
	var head, line, body strings.Builder
	head.WriteString("| fault |")
	line.WriteString("|---|")
	for _, c := range columns {
		fmt.Fprintf(&head, " %s |", c.name)
		line.WriteString("---:|")
	}
	head.WriteString(" time to converge |\n")
	line.WriteString("---:|\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		fmt.Fprintf(&body, "| %s |", row.Name)
		for _, c := range columns {
			fmt.Fprintf(&body, " %d |", c.of(row))
		}
		fmt.Fprintf(&body, " %s |\n", row.converge())
	}
	return head.String() + line.String() + body.String()
}

// Err names the troubles of all rows, or is nil.
func (r Report) Err() error {
	var errs []error
	for _, row := range r.Rows {
		errs = append(errs, row.Err())
	}
	return errors.Join(errs...)
}
