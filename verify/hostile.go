package verify

import (
	"context"
	"errors"
	"time"

	"github.com/hermod-im/hermod/verify/oldclient"
)

// habit is how a device misbehaves. Those of a bad line are a relay's.
type habit uint8

const (
	behaves habit = iota
	resends       // sends everything again
	deafens       // reads nothing for a while
	flaps         // hangs up as soon as it has logged in
	drops         // hangs up every few seconds, with what it has not read yet
)

const (
	// flapPause makes about 10 connections a second.
	flapPause = 80 * time.Millisecond
	// resendLast is how many messages are sent again, after each login and resendPause later.
	resendLast  = 20
	resendPause = 3 * time.Second
	// deafMean is how long a deaf device reads, and how long it does not, on average; deafMax at most.
	deafMean, deafMax = 6 * time.Second, 20 * time.Second
)

// errHungUp: the device has dropped its connection.
var errHungUp = errors.New("hung up")

// misbehave does what the device's habit is, unless all are to be calm.
func (p *plainDevice) misbehave(ctx context.Context, c *oldclient.Client) error {
	if p.calm() {
		return nil
	}
	switch {
	case p.habit == resends && time.Now().After(p.again):
		p.again = time.Now().Add(resendPause)
		return p.sendAgain(c)
	case p.habit == drops && time.Now().After(p.dropAt):
		return errHungUp
	case p.habit == deafens && time.Now().After(p.deaf):
		p.deaf = time.Now().Add(p.deafAfter())
		for until := time.Now().Add(p.deafAfter()); time.Now().Before(until) && !p.calm() && ctx.Err() == nil; {
			pause(ctx, pollWait)
		}
	}
	return nil
}

func (p *plainDevice) deafAfter() time.Duration {
	return min(time.Duration(p.rng.ExpFloat64()*float64(deafMean)), deafMax)
}

// sendAgain sends what was answered before: the answers must be the same.
func (p *plainDevice) sendAgain(c *oldclient.Client) error {
	for _, m := range p.sent {
		sent, err := p.talk(c, m)
		if err != nil {
			return err
		}
		p.oracle.Answered(m.n, p.answer(sent))
	}
	return nil
}
