// Package client is the Go SDK of hermod: it keeps one device of an account on line.
//
//	c, err := client.New(client.Options{
//		URL:       "ws://127.0.0.1:8080",
//		Token:     client.StaticToken(token),
//		OnMessage: func(m client.Message) { fmt.Println(m.Sender, m.Body) },
//	})
//	go c.Run(ctx)
//	sent, err := c.Talk(ctx, "bob", client.Text("hello"))
//
// What the application can rely on:
//
//   - Talk returns without an error when the message is durably stored, once: it is sent again with
//     the same client id after a broken connection, until it is answered or the context ends.
//   - OnMessage gets each message of a conversation once and in seq order, whatever was lost,
//     doubled or overtaken on the way; what the device missed while off line comes first.
//   - A connection that breaks is made again, with backoff, until Close, a newer login of the same
//     device (ErrDisplaced) or a token that the server refuses twice (ErrUnauthorized).
//
// # Goroutines
//
// Run owns all of them and returns after they have ended:
//
//	Run ─┬─ deliver: the only caller of OnMessage, OnGroup and OnState, and of the Store
//	     └─ per connection: the reader (Run itself), heartbeat, synchronise
//
// One mutex guards the calls that wait for answers and the Inbox, which decides what is delivered.
// Nothing blocks while holding it: sending only queues.
package client
