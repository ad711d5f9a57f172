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
//   - Send queues a message, on line or off, and OnOutcome hears once what became of it. With an
//     Outbox it survives a restart of the application, with its client id.
//   - Messages to one account or group are stored in the order of Talk and Send. One is sent when the
//     one before has its outcome: a round trip for each. Different conversations do not wait
//     for each other.
//   - OnMessage gets each message of a conversation once and in seq order, whatever was lost,
//     doubled or overtaken on the way; what the device missed while off line comes first.
//   - Conversations and Unread tell what the account has not read, on whichever device: with OnRead.
//   - A connection that breaks is made again, with backoff, until Close, a newer login that takes this
//     one's place (ErrDisplaced), a policy against this one (ErrConflict) or a token that the server
//     refuses twice (ErrUnauthorized). A gateway that stops is left for another one before it
//     does, and nothing shows.
//
// # Goroutines
//
// Run owns all of them and returns after they have ended:
//
//	Run ─┬─ deliver: the only caller of the On functions, of Store, and of Outbox but for Add
//	     ├─ one per account or group that messages are on their way to
//	     └─ per connection: its reader, heartbeat, synchronise
//
// While the client moves from one gateway to another there are two connections: the old one is read
// until it is closed. When Run ends it tells the last outcomes itself.
//
// One mutex guards the calls that wait for answers, the messages on their way and the Inbox, which
// decides what is delivered. Nothing blocks while holding it: sending only queues.
package client
