package bench

// receiverSet is which receivers have a message: a bit for each, 2 KB for 15,000.
type receiverSet []uint64

// newReceiverSet has room for receivers 0 to n-1.
func newReceiverSet(n int) receiverSet { return make(receiverSet, (n+63)/64) }

// add reports whether the receiver was not in the set.
func (s receiverSet) add(i int) bool {
	word, bit := &s[i/64], uint64(1)<<(i%64)
	isNew := *word&bit == 0
	*word |= bit
	return isNew
}
